"""A real language model as the base: LoRA with and without its chat template, exported, merged, served by Triton."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml

import smollm2
from multitask_api.bundle import BASE_MODEL, Bundle, ServedModel
from multitask_client import TaskClient
from multitask_serving.engine.engine import read_bundle
from multitask_serving.engine.model.loading import load_model
from multitask_serving.triton.probe import load_golden
from multitask_trainer.export.merging import merge_adapter
from support.small_suite import (
    HASTE,
    THINGS,
    ModelFolder,
    document,
    reply_rows,
    serving,
    task,
    topic_rows,
    urgency_rows,
    write_data,
)

ROWS = {"train": 64, "validation": 6, "test": 10}
TASKS = {
    "topic": task("topic", "Classification", labels=list(THINGS)),
    "urgency": task("urgency", "Classification", labels=list(HASTE)),
    "reply": task("reply", "Generation", metric="ExactMatch", generation={"maxNewTokens": 5, "stop": ["\n"]}),
}
PLAIN, CHAT = ("topic", "urgency", "reply"), ("topic", "reply")
"""The tasks of the two runs. Two of a type are trained as a mixture too; one alone is answered by its own adapter."""


@dataclass(frozen=True)
class Run:
    """A finished run: the folder is that of the last run, ``exported`` is its own."""

    model_folder: ModelFolder
    tasks: tuple[str, ...]
    chat_template: bool
    exported: Path

    @property
    def bundle(self) -> Bundle:
        return read_bundle(self.exported / "bundle")


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    """A LoRA of a few steps for each task, on SmolLM2."""
    model_folder = ModelFolder(tmp_path_factory.mktemp("smollm2") / "desk")
    rows = {"topic": topic_rows(1), "urgency": urgency_rows(2), "reply": reply_rows(3)}
    for name, each in rows.items():
        write_data(model_folder.folder / "data", name, each, ROWS)
    resource = document()
    del resource["spec"]["pretraining"]
    resource["spec"]["baseModel"] = {"uri": f"file://{smollm2.make()}"}
    model_folder.file.write_text(yaml.safe_dump(resource))
    model_folder.edit(
        {
            "stages": {
                "baseline": {"maxSteps": 10},
                "highResource": {"enabled": False, "minSaturationSteps": None},
                "mixture": {"maxSteps": 12, "minSteps": 12},
            },
            "tuning": {"method": "LoRA", "rank": 8, "alpha": 16},
            "qualification": {"threshold": 0.5},
            "training": {"batchRows": 8, "learningRate": 1.5e-3, "warmupSteps": 2, "evalEvery": 10, "minSteps": 10},
        }
    )
    return model_folder


@pytest.fixture(scope="module", params=[False, True], ids=["plain prompts", "chat template"])
def run(request: pytest.FixtureRequest, model_folder: ModelFolder) -> Run:
    """First a run with plain prompts, then one with the chat template, in one work folder.

    Without `verify`, whose comparison a test of this file makes, and `ledger`, which measures speed for minutes here.
    """
    tasks = CHAT if request.param else PLAIN
    model_folder.edit({"baseModel": {"chatTemplate": request.param}, "tasks": [TASKS[name] for name in tasks]})
    if request.param:  # its prompts have three times the tokens
        model_folder.edit({"stages": {"baseline": {"maxSteps": 5}}})
    done = model_folder.mtm("run", "--no-serve")
    assert done.exit_code == 0, done.stderr
    return Run(model_folder, tasks, request.param, (model_folder.work / "current").resolve())


def test_a_few_steps_teach_it_a_task(run: Run):
    """Before, a label has a loss of 10 nats a token: the model says something else in this place."""
    manifests = run.model_folder.work.glob("stages/baseline/topic/seed-17/*/manifest.json")
    trained = json.loads(max(manifests, key=lambda path: path.stat().st_mtime).read_text())["result"]
    assert trained["validation"]["topic"]["loss"] < 5
    assert trained["steps"] <= 10


def test_the_base_is_read_and_tested_once_for_both(run: Run):
    assert ("base" in run.model_folder.stages_run()) is not run.chat_template


def test_only_the_run_with_the_chat_template_has_its_turns_in_the_prompts(run: Run):
    for served in run.bundle.tasks:
        literal = "".join(piece.literal or "" for piece in served.pieces)
        assert ("<|im_start|>user" in literal) is run.chat_template
        assert literal.endswith("<|im_start|>assistant\n" if run.chat_template else f"{served.name}:")


def test_all_tasks_share_one_base(run: Run):
    [model] = run.bundle.models
    assert model.name == BASE_MODEL
    assert {task.adapter for task in run.bundle.tasks} == {adapter.name for adapter in model.adapters}
    assert len(model.adapters) > 1


def test_triton_answers_every_test_row_as_it_was_measured(run: Run):
    golden = load_golden(run.exported / "golden.jsonl")
    assert Counter(request.task for request in golden) == dict.fromkeys(run.tasks, ROWS["test"])
    with serving(run.model_folder, tasks=len(run.tasks)) as service, TaskClient(service.address) as client:
        answers = [client.predict(request.task, request.fields, timeout_s=120).answer for request in golden]
    pairs = zip(golden, answers, strict=True)
    different = [(request, answer) for request, answer in pairs if answer != request.answer and not request.near_tie]
    assert not different


def test_an_adapter_merged_into_the_base_computes_what_it_does_beside_it(run: Run, tmp_path: Path):
    task = "reply" if run.chat_template else "topic"
    bundle = run.exported / "bundle"
    [model] = run.bundle.models
    [name] = [served.adapter for served in run.bundle.tasks if served.name == task]
    [adapter] = [adapter for adapter in model.adapters if adapter.name == name]
    merge_adapter(bundle / model.path, bundle, adapter, tmp_path / "merged", "fp32")
    merged = load_model(tmp_path, ServedModel(name=name, path="merged", dtype="float32"))
    beside = load_model(bundle, model, adapters=[name])
    ids = beside.tokenizer(
        "Hello, see the invoice and the parcel. Which of them is urgent?", return_tensors="pt"
    ).input_ids
    with torch.inference_mode():
        frozen = beside.model(ids, use_cache=False).logits
        with beside.use_adapters([name]):
            expected = beside.model(ids, use_cache=False).logits
        logits = merged.model(ids, use_cache=False).logits
    assert (logits - expected).abs().max() < 1e-4 * expected.abs().max()
    assert (frozen - expected).abs().max() > 1e-2 * expected.abs().max()
