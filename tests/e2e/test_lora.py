"""One frozen base and low-rank adapters: a mixture's adapter, and a leftover one for the task that cannot qualify."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from multitask_client import TaskClient
from support.small_suite import FEW_ROWS, ROWS, CommandResult, ModelFolder, make_small_suite, serving


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelFolder, CommandResult]:
    """A finished run of two tasks with LoRA."""
    model_folder = make_small_suite(tmp_path_factory.mktemp("lora") / "desk")
    document = yaml.safe_load(model_folder.file.read_text())
    tasks = [task for task in document["spec"]["tasks"] if task["name"] in ("topic", "mood")]
    model_folder.edit(
        {
            "tasks": tasks,
            # Adapters of so few parameters learn little in seconds: most of it has to be in the base.
            "pretraining": {"maxSteps": 240},
            "stages": {
                "baseline": {"maxSteps": 60},
                "highResource": {"enabled": False, "minSaturationSteps": None},
                "mixture": {"maxSteps": 60, "minSteps": 40},
            },
            "tuning": {"method": "LoRA", "rank": 8, "alpha": 16, "dropout": 0.05},
            "training": {"minSteps": 40},
        }
    )
    return model_folder, model_folder.mtm("run")


def test_the_run_ends_with_a_mixture_and_a_leftover(adapted: tuple[ModelFolder, CommandResult]):
    model_folder, done = adapted
    assert done.exit_code == 0, done.stderr
    report = model_folder.report()
    assert {task["name"]: (task["verdict"], task["servedBy"]) for task in report["tasks"]} == {
        "topic": ("Qualified", "classification"),
        "mood": ("Inconclusive", "baseline"),
    }
    serving = report["serving"]
    assert serving["different"] == 0
    assert serving["compared"] == ROWS["test"] + FEW_ROWS["test"]


def test_one_model_with_two_adapters_is_exported(adapted: tuple[ModelFolder, CommandResult]):
    model_folder, _ = adapted
    bundle = json.loads((model_folder.work / "current/bundle/bundle.json").read_text())
    [model] = bundle["models"]
    assert len(model["adapters"]) == 2
    assert {adapter["rank"] for adapter in model["adapters"]} == {8}
    used = {task["name"]: task["adapter"] for task in bundle["tasks"]}
    assert len(set(used.values())) == 2
    assert None not in used.values()


def test_the_leftover_costs_an_adapter_and_no_model(adapted: tuple[ModelFolder, CommandResult]):
    model_folder, _ = adapted
    ledger = model_folder.report()["ledger"]
    assert (ledger["singleTask"]["models"], ledger["multiTask"]["models"], ledger["leftoverModels"]) == (2, 1, 1)
    assert ledger["multiTask"]["bytes"] < 0.75 * ledger["singleTask"]["bytes"]


def test_only_the_adapters_were_trained(adapted: tuple[ModelFolder, CommandResult]):
    model_folder, _ = adapted
    manifests = model_folder.manifests()
    weights = manifests["base"]["result"]["parameters"]
    for stage in ("baseline/topic/seed-17", "baseline/mood/seed-17", "mixture/classification"):
        assert 0 < manifests[stage]["result"]["trainableParameters"] < weights / 2
        assert not [name for name in manifests[stage]["files"] if name.endswith("/model.safetensors")]


def test_both_adapters_are_served(adapted: tuple[ModelFolder, CommandResult], tmp_path: Path):
    model_folder, _ = adapted
    with serving(model_folder, tasks=2) as service, TaskClient(service.address) as client:
        topic = client.predict("topic", text="hello see the invoice today thanks")
        mood = client.predict("mood", text="hello see the invoice today thanks")
    assert (topic.label, topic.served_by) == ("billing", "classification")
    assert mood.served_by == "baseline"
    assert mood.label in ("glad", "cross")
