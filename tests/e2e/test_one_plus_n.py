"""One frozen base and CGC-LoRA experts for each of two groups: trained, resumed, exported, served by one Triton."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

import psutil
import pytest
import torch
import yaml

from multitask_client import TaskClient
from multitask_serving.engine.engine import read_bundle
from multitask_serving.engine.model.loading import load_model
from support.run_processes import folder_name, processes_of, wait_until
from support.small_suite import CommandResult, ModelFolder, document, message, mtm, serving, task, write_data

LABELS = {
    "money": ["billing", "other"],
    "hurry": ["high", "other"],
    "topic": ["billing", "delivery", "account"],
    "haste": ["low", "medium", "high"],
}
GROUPS = {"binary": ["money", "hurry"], "multi-class": ["topic", "haste"]}
ROWS = {"train": 320, "validation": 60, "test": 80}
RANK = 12
"""Of three experts in each group: r_e is 4, and a task's own LoRA has rank 8."""
TEXT = "hello see the invoice urgent thanks"


def rows(name: str) -> Iterator[dict[str, str]]:
    """Labels that a word of the text says; those that a task does not know are ``other``."""
    choice = Random(name)
    while True:
        text, topic, level = message(choice)
        label = topic if name in ("money", "topic") else level
        yield {"text": text, "label": label if label in LABELS[name] else "other"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelFolder, CommandResult]:
    """A finished run of two groups of two tasks."""
    model_folder = ModelFolder(tmp_path_factory.mktemp("one-plus-n") / "desk")
    for name in LABELS:
        write_data(model_folder.folder / "data", name, rows(name), ROWS)
    resource = document()
    resource["spec"]["tasks"] = [task(name, "Classification", labels=labels) for name, labels in LABELS.items()]
    model_folder.file.write_text(yaml.safe_dump(resource))
    model_folder.edit(
        {
            "pretraining": {"maxSteps": 240},
            "filtering": {"strategy": "Taxonomy"},
            "stages": {
                "baseline": {"maxSteps": 60},
                "highResource": {"enabled": False, "minSaturationSteps": None},
                "mixture": {"maxSteps": 120, "minSteps": 120},
            },
            "tuning": {"method": "CGCLoRA", "rank": RANK, "alpha": 24},
            "training": {"minSteps": 40},
        }
    )
    return model_folder, model_folder.mtm("run")


def test_every_group_is_served_as_it_was_measured(trained: tuple[ModelFolder, CommandResult]):
    model_folder, done = trained
    assert done.exit_code == 0, done.stderr
    report = model_folder.report()
    assert {task["name"]: task["servedBy"] for task in report["tasks"]} == {
        name: group for group, names in GROUPS.items() for name in names
    }
    assert report["serving"]["different"] == 0
    assert report["serving"]["compared"] == len(LABELS) * ROWS["test"]


def test_a_group_trains_no_more_weights_than_a_lora_of_its_rank_but_the_gates(
    trained: tuple[ModelFolder, CommandResult],
):
    manifests = trained[0].manifests()
    baseline = manifests["baseline/topic/seed-17"]["result"]["trainableParameters"]
    for group in GROUPS:
        mixture = manifests[f"mixture/{group}"]["result"]["trainableParameters"]
        assert baseline < mixture < 1.05 * baseline


def test_one_model_with_an_adapter_for_each_task_is_exported(trained: tuple[ModelFolder, CommandResult]):
    bundle = read_bundle(trained[0].work / "current/bundle")
    [model] = bundle.models
    assert {adapter.name: (adapter.rank, adapter.scaling) for adapter in model.adapters} == {
        f"{group}.{name}": (2 * RANK // 3, 24 / RANK) for group, names in GROUPS.items() for name in names
    }
    assert [task.adapter for task in bundle.tasks] == [f"{g}.{name}" for g, names in GROUPS.items() for name in names]


def test_one_triton_answers_the_tasks_of_both_groups(trained: tuple[ModelFolder, CommandResult]):
    model_folder, _ = trained
    with serving(model_folder, tasks=len(LABELS)) as service, TaskClient(service.address) as client:
        answers = {name: client.predict(name, text=TEXT) for name in LABELS}
        servers = [each for each in service.triton_processes() if each.name() == "tritonserver"]
        assert len(servers) == 1
    assert {name: answer.label for name, answer in answers.items()} == {
        "money": "billing",
        "hurry": "high",
        "topic": "billing",
        "haste": "high",
    }
    assert answers["money"].served_by == "binary"
    assert answers["topic"].served_by == "multi-class"


PLAIN_PEFT = """
import sys
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

base, adapter, ids, logits = sys.argv[1:]
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).eval()
with torch.no_grad():
    torch.save(model(torch.load(ids)).logits, logits)
"""


@pytest.mark.parametrize("name", ["hurry", "topic"])
def test_an_exported_task_is_an_ordinary_lora_in_plain_peft(
    trained: tuple[ModelFolder, CommandResult], name: str, tmp_path: Path
):
    """The logits are those of the engine that serves the bundle."""
    model_folder, _ = trained
    exported = mtm("export", str(model_folder.work), "--to", "peft", "--out", str(tmp_path))
    assert exported.exit_code == 0, exported.stderr
    [adapter] = tmp_path.glob(f"*/adapters/{name}")
    bundle = model_folder.work / "current/bundle"
    [served] = read_bundle(bundle).models
    ids = torch.arange(40)[None] * 7 % 300
    torch.save(ids, tmp_path / "ids.pt")
    paths = [bundle / served.path, adapter, tmp_path / "ids.pt", tmp_path / "logits.pt"]
    done = subprocess.run(
        [sys.executable, "-c", PLAIN_PEFT, *map(str, paths)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr

    loaded = load_model(bundle, served)
    [task_adapter] = [each.name for each in served.adapters if each.name.endswith(f".{name}")]
    with torch.no_grad():
        frozen = loaded.model(ids, use_cache=False).logits
        with loaded.use_adapters([task_adapter]):
            expected = loaded.model(ids, use_cache=False).logits
    logits = torch.load(tmp_path / "logits.pt")
    assert (logits - expected).abs().max() < 1e-4 * expected.abs().max()
    assert (frozen - expected).abs().max() > 1e-2 * expected.abs().max()


def test_with_lora_instead_no_baseline_is_trained_again(trained: tuple[ModelFolder, CommandResult], tmp_path: Path):
    model_folder = trained[0].copy(tmp_path / "desk")
    model_folder.edit({"tuning": {"method": "LoRA"}})
    plan = model_folder.mtm("plan", "--output", "json")
    assert plan.exit_code == 0, plan.stderr
    states = {stage["name"]: stage["shown"] for stage in json.loads(plan.stdout)["stages"]}
    cached = {name for name, state in states.items() if state == "cached"}
    assert {name for name in states if name.startswith(("prepare/", "base", "filter"))} <= cached
    assert {states[f"mixture/{group}"] for group in GROUPS} == {"will run"}


def test_a_mixture_that_was_killed_ends_with_the_same_weights(
    trained: tuple[ModelFolder, CommandResult], tmp_path: Path
):
    model_folder = trained[0].copy(tmp_path / "desk")
    stage = "mixture/binary"
    [finished] = model_folder.work.glob(f"stages/{stage}/*/manifest.json")
    expected = json.loads(finished.read_text())
    shutil.rmtree(finished.parent)

    def run_until(path_exists) -> str:
        log = tmp_path / "mtm.log"
        process = model_folder.start("--no-serve", log=log)
        try:
            wait_until(path_exists, process, log)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            psutil.wait_procs(processes_of(model_folder), timeout=20)
        return log.read_text()

    pattern = f"work/{folder_name(stage)}-*/checkpoint/checkpoint.pt"
    run_until(lambda: any(model_folder.work.glob(pattern)))
    assert not finished.exists(), "the run was killed too late"
    run_until(finished.exists)
    assert "resuming after step" in (model_folder.work / "logs" / f"{stage}.log").read_text()
    assert json.loads(finished.read_text())["outputs"] == expected["outputs"]
