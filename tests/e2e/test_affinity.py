"""`mtm run` with filtering.strategy Affinity: a task that contradicts another is trained apart, and checks are made."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from support.small_suite import CommandResult, ModelFolder, document, task, topic_rows, write_data

LABELS = ["billing", "delivery"]
ROWS = {"train": 320, "validation": 40, "test": 60}
BUDGETS = {
    "baseline": {"maxSteps": 40},
    "highResource": {"enabled": False},
    "mixture": {"maxSteps": 40, "minSteps": 0},
}


def sound_rows(seed: int) -> Iterator[dict[str, str]]:
    """Texts that are about one of two topics, which a word in them tells."""
    return (row for row in topic_rows(seed) if row["label"] in LABELS)


def turned_rows(seed: int) -> Iterator[dict[str, str]]:
    """Texts like those of ``topic``, each with the other label."""
    for row in sound_rows(seed):
        yield row | {"label": LABELS[1 - LABELS.index(row["label"])]}


def write_model(folder: Path, **filtering: object) -> ModelFolder:
    """``topic``, ``same`` with other texts, and ``turned``, which contradicts both; they share one prompt."""
    rows = {"topic": sound_rows(1), "same": sound_rows(2), "turned": turned_rows(3)}
    for name, source in rows.items():
        write_data(folder / "data", name, source, ROWS)
    resource = document()
    prompt = {"prompt": "{text}\ntopic:"}
    spec = {
        "tasks": [task(name, "Classification", labels=LABELS) | prompt for name in rows],
        "filtering": {"strategy": "Affinity", **filtering},
        "stages": BUDGETS,
        "training": resource["spec"]["training"] | {"minSteps": 0, "evalEvery": 40},
    }
    del resource["spec"]["pretraining"]  # it would teach the base the answers of all three
    resource["spec"] |= spec
    model_folder = ModelFolder(folder)
    model_folder.file.write_text(yaml.safe_dump(resource))
    return model_folder


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelFolder, CommandResult]:
    """A finished run, without servers."""
    model_folder = write_model(tmp_path_factory.mktemp("affinity") / "desk", diagnosis={"check": True})
    return model_folder, model_folder.mtm("run", "--no-serve")


def test_the_contradiction_is_trained_apart_and_the_equal_tasks_together(ran: tuple[ModelFolder, CommandResult]):
    model_folder, done = ran
    assert done.exit_code == 0, done.stderr
    report = model_folder.report()
    assert report["affinity"]["groups"] == {"classification": ["topic", "same"], "classification-turned": ["turned"]}
    assert {item["name"]: item["group"] for item in report["tasks"]} == {
        "topic": "classification",
        "same": "classification",
        "turned": "classification-turned",
    }
    assert "are apart: affinity" in report["affinity"]["reasons"][0]
    assert "<h2>Affinity</h2>" in (model_folder.work / "report.html").read_text()


def test_the_plan_shows_the_forecast(ran: tuple[ModelFolder, CommandResult]):
    model_folder, _ = ran
    text = model_folder.mtm("plan", "--no-serve").stdout
    assert "group classification: topic, same" in text
    assert "affinity of turned: topic -" in text
    plan = json.loads(model_folder.mtm("plan", "--no-serve", "--output", "json").stdout)
    assert plan["affinity"]["tasks"] == ["topic", "same", "turned"]


def test_a_limit_keeps_them_together_and_the_task_that_is_hurt_is_checked(ran: tuple[ModelFolder, CommandResult]):
    """In one group they teach each other's mistakes, so both fall short; only what depends on the groups runs again."""
    model_folder, _ = ran
    model_folder.edit({"filtering": {"maxGroups": 1}})
    done = model_folder.mtm("run", "--no-serve")
    assert done.exit_code == 0, done.stderr
    stages = model_folder.stages_run()
    assert {"affinity", "filter", "mixture/classification", "check/turned"} <= stages
    assert not [name for name in stages if name.startswith(("gradients/", "baseline/", "prepare/", "base"))]
    report = model_folder.report()
    diagnosis = {item["task"]: item for item in report["diagnoses"]}["turned"]
    assert set(diagnosis["hurting"]) == {"topic", "same"}
    assert diagnosis["check"]["without"] == list(diagnosis["hurting"])
    assert "Two short runs" in (model_folder.work / "report.html").read_text()
