"""A task is added to a trained group, and its mixture begins with the one before: warm against cold."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.small_suite import CommandResult, make_small_suite, task, topic_rows, urgency_rows, write_data

NAME = "mixture/classification"
BAR = 0.9
ROWS = {"train": 240, "validation": 40, "test": 40}


def rush_rows(seed: int) -> Iterator[dict[str, str]]:
    """Whether the urgency is high."""
    for row in urgency_rows(seed):
        yield {"text": row["text"], "label": "rush" if row["label"] == "high" else "rest"}


class Grown:
    """Two tasks are trained; then a third one, warm; then the same cold; then warm again."""

    def __init__(self, folder: Path) -> None:
        self.model_folder = make_small_suite(folder)
        shutil.rmtree(folder / "data")
        write_data(folder / "data", "topic", topic_rows(seed=1), ROWS)
        write_data(folder / "data", "urgency", urgency_rows(seed=2), ROWS)
        document = yaml.safe_load(self.model_folder.file.read_text())
        del document["spec"]["pretraining"]
        self.model_folder.file.write_text(yaml.safe_dump(document))
        two = [item for item in document["spec"]["tasks"] if item["name"] in ("topic", "urgency")]
        self.model_folder.edit(
            {
                "tasks": two,
                "stages": {
                    "baseline": {"maxSteps": 80},
                    "highResource": {"enabled": False, "minSaturationSteps": None},
                    "mixture": {"maxSteps": 140, "minSteps": 40},
                },
                "qualification": {"threshold": BAR},
                "training": {"minSteps": 80},
            }
        )
        self.first = self._run()
        write_data(folder / "data", "rush", rush_rows(seed=9), ROWS)
        self.model_folder.edit(
            {
                "tasks": [*two, task("rush", "Classification", labels=["rush", "rest"])],
                "stages": {"mixture": {"start": "Previous"}},
            }
        )
        self.plan = self.model_folder.mtm("plan")
        self.warm = self._run()
        self.warm_manifest = self._newest()
        self.model_folder.edit({"stages": {"mixture": {"start": None}}})
        self.cold = self._run()
        self.cold_manifest = self._newest()
        self.model_folder.edit({"stages": {"mixture": {"start": "Previous"}}})
        self.again = self._run()

    def _run(self) -> CommandResult:
        done = self.model_folder.mtm("run", "--no-serve")
        assert done.exit_code == 0, done.stderr
        return done

    def _newest(self) -> dict[str, Any]:
        paths = self.model_folder.work.glob(f"stages/{NAME}/*/manifest.json")
        return json.loads(max(paths, key=lambda path: path.stat().st_mtime_ns).read_text())


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Grown:
    return Grown(tmp_path_factory.mktemp("warm") / "desk")


def started(done: CommandResult) -> set[str]:
    return set(re.findall(r"^start  (\S+)", done.stderr, re.M))


def first_scores(manifest: dict[str, Any]) -> dict[str, float]:
    """Task → score of the first validation."""
    return {task: point["score"] for task, point in manifest["result"]["curve"][0]["tasks"].items()}


def test_only_the_new_task_and_the_mixture_are_trained(grown: Grown):
    assert started(grown.warm) == {
        "prepare/rush", "baseline/rush/seed-17", "filter", NAME, "bundle", "evaluate/classification", "export",
    }  # fmt: skip
    assert started(grown.cold) == {NAME, "bundle", "evaluate/classification", "export"}
    assert started(grown.again) == set()


def test_plan_and_result_name_the_start(grown: Grown):
    start = grown.warm_manifest["result"]["start"]
    assert start["tasks"] == ["topic", "urgency"]
    assert f"{NAME} begins with {NAME} {start['digest']}, trained on topic, urgency" in grown.plan.stdout
    assert "start" not in grown.cold_manifest["result"]


def test_the_first_validation_of_the_old_tasks_is_far_better_than_cold(grown: Grown):
    warm, cold = first_scores(grown.warm_manifest), first_scores(grown.cold_manifest)
    gain = sum(warm[name] - cold[name] for name in ("topic", "urgency")) / 2
    assert gain > 0.2, (warm, cold)


def test_the_report_compares_rows_until_the_bar(grown: Grown):
    [group] = grown.model_folder.report()["groups"]
    start = group["start"]
    for name in ("topic", "urgency"):
        assert start["rowsToBar"][name] < start["coldRowsToBar"].get(name, 10**9), start
        assert f"until {name} was at the bar: {start['rowsToBar'][name]:,}; cold" in grown.again.stdout
