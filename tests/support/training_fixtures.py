"""Builders for tests of training: two tasks that a minute model learns, their artifacts, and orders for the stages."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from multitask_api.bundle import GenerationSettings
from multitask_api.resource.sources import Pretraining
from multitask_api.resource.tuning import Tuning
from multitask_api.stage_io.manifest import Manifest, StageFailure, StageOrder
from multitask_api.stage_io.parameters import (
    BaseParameters,
    Optimisation,
    StageParameters,
    TaskDefinition,
    TrainParameters,
)
from multitask_operator.local.fork_launcher import ForkLauncher
from multitask_trainer.data.rows import Row, write_rows
from multitask_trainer.runtime.context import StageContext
from multitask_trainer.runtime.progress import FileProgressReporter
from multitask_trainer.runtime.runner import run_stage
from multitask_trainer.storage.files import write_atomically

FRUITS = ("apple", "pear", "plum", "fig")
TOOLS = ("saw", "axe", "file", "vice")

KIND = TaskDefinition(
    name="kind", type="Classification", labels=("fruit", "tool"), prompt="{text}\nKind:", metric="Accuracy"
)
"""Which list the text's one noun is from."""

REPEAT = TaskDefinition(
    name="repeat",
    type="Generation",
    prompt="{text}\nThing:",
    metric="ExactMatch",
    generation=GenerationSettings(max_new_tokens=12),
)
"""The noun itself."""

TASKS = {"kind": KIND, "repeat": REPEAT}


def rows(task: str, count: int, seed: int) -> list[Row]:
    """Texts such as ``we saw 3 of the plum here``."""
    generator = random.Random(f"{task}/{seed}")
    generated = []
    for _ in range(count):
        noun = generator.choice(FRUITS + TOOLS)
        text = f"{generator.choice(['we have', 'they want', 'here are'])} {generator.randrange(90)} of the {noun}"
        label = "fruit" if noun in FRUITS else "tool"
        generated.append(Row({"text": text}, label) if task == "kind" else Row({"text": text}, None, (noun,)))
    return generated


def optimisation(**changes: object) -> Optimisation:
    """Small batches, frequent validations."""
    settings: dict[str, object] = {
        "batch_rows": 16,
        "learning_rate": 3e-3,
        "warmup_steps": 5,
        "max_length": 48,
        "seed": 5,
        "eval_every": 10,
        "min_steps": 20,
        "patience": 3,
        "precision": "fp32",
    }
    return Optimisation.model_validate(settings | changes)


def train_parameters(kind: str, tasks: Sequence[str] = ("kind",), **changes: object) -> TrainParameters:
    """Equal probabilities, Full tuning, 60 steps."""
    settings: dict[str, object] = {
        "kind": kind,
        "tasks": tuple(TASKS[name] for name in tasks),
        "probabilities": {name: 1 / len(tasks) for name in tasks},
        "max_steps": 60,
        "optimisation": optimisation(),
        "tuning": Tuning(method="Full"),
    }
    return TrainParameters.model_validate(settings | changes)


def base_parameters(**changes: object) -> BaseParameters:
    """``builtin://micro`` over both tasks' text."""
    settings: dict[str, object] = {
        "uri": "builtin://micro",
        "tasks": tuple(TASKS.values()),
        "optimisation": optimisation(),
    }
    return BaseParameters.model_validate(settings | changes)


def pretraining(**changes: object) -> Pretraining:
    """Twenty steps on the tasks' text."""
    return Pretraining.model_validate({"maxSteps": 20} | changes)


@cache
def _launcher() -> ForkLauncher:
    """One for all suites; its server ends with this process."""
    return ForkLauncher()


class TrainingSuite:
    """A folder of artifacts; stages are run as processes on it, as an executor does."""

    names: Sequence[str] = tuple(TASKS)

    def __init__(self, root: Path, *, train: int = 300, others: int = 60) -> None:
        """``train`` rows for training, ``others`` each for validation and test."""
        self.root = root
        self._sizes = {"train": train, "validation": others, "test": others}
        for task in self.names:
            self._prepare(task)

    def rows(self, task: str, split: str, count: int, seed: int) -> list[Row]:
        """The rows of one split."""
        del split
        return rows(task, count, seed)

    def artifact(self, stage: str) -> Path:
        """Where a stage's artifact lies."""
        return self.root / "artifacts" / stage

    def manifest(self, stage: str) -> Manifest:
        """A finished stage's manifest."""
        return Manifest.model_validate_json((self.artifact(stage) / "manifest.json").read_text())

    def work(self, stage: str) -> Path:
        """A stage's work folder."""
        return self.root / "work" / stage

    def order(self, stage: str, parameters: StageParameters, *, inputs: Sequence[str] = (), **changes: object) -> Path:
        """Write a stage's order; by default it reads the base and every prepare."""
        kind = stage.partition("/")[0]
        names = [*(f"prepare/{task}" for task in self.names), *([] if kind == "base" else ["base"]), *inputs]
        settings: dict[str, object] = {
            "model": "toy",
            "stage": stage,
            "kind": kind,
            "digest": "0" * 12,
            "version": 1,
            "parameters": parameters.to_json(),
            "read_outputs": {},
            "inputs": {name: str(self.artifact(name)) for name in names},
            "output": str(self.artifact(stage)),
            "work": str(self.work(stage)),
            "device": "cpu",
            "data_root": str(self.root),
        }
        path = self.root / "orders" / f"{stage.replace('/', '_')}.json"
        write_atomically(path, StageOrder.model_validate(settings | changes).model_dump_json(by_alias=True))
        return path

    def start(self, order: Path) -> subprocess.Popen[str]:
        """Start a stage program."""
        kind = StageOrder.model_validate_json(order.read_text()).kind.replace("-", "_")
        argv = [sys.executable, "-m", f"multitask_trainer.stages.{kind}", "--order", str(order)]
        return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ))

    def run(self, order: Path) -> str:
        """Run a stage program to its end, which must be good, as `mtm run` does on a CPU; its output."""
        kind = StageOrder.model_validate_json(order.read_text()).kind
        log = order.with_suffix(".log")
        log.unlink(missing_ok=True)
        process = _launcher().start(kind, [order], log, dict(os.environ))
        end = time.monotonic() + 300
        while (status := process.poll()) is None:
            assert time.monotonic() < end, log.read_text("utf-8")
            time.sleep(0.02)
        output = log.read_text("utf-8")
        assert status == 0, output
        return output

    def run_here(self, order: Path) -> StageFailure | None:
        """Run a stage in this process, as a pod runs each of its orders; how it failed, None if it did not."""
        read, results = StageOrder.model_validate_json(order.read_text()), _Results()
        stage = import_module(f"multitask_trainer.stages.{read.kind.replace('-', '_')}")
        run_stage(stage.work, StageContext(read, FileProgressReporter(read.stage, None)), results)
        return results.failure

    def _prepare(self, task: str) -> None:
        folder = self.artifact(f"prepare/{task}")
        folder.mkdir(parents=True)
        for seed, (split, count) in enumerate(self._sizes.items()):
            write_rows(folder, split, self.rows(task, split, count, seed))
        manifest = Manifest(
            stage=f"prepare/{task}",
            kind="prepare",
            digest="0" * 12,
            version=1,
            read_outputs={},
            outputs={},
            files={},
            result={},
            seconds=0.0,
        )
        write_atomically(folder / "manifest.json", manifest.model_dump_json(by_alias=True))


class _Results:
    failure: StageFailure | None = None

    def succeeded(self, manifest: Manifest) -> None:
        del manifest  # it is in the artifact

    def failed(self, failure: StageFailure, digest: str) -> None:
        del digest
        self.failure = failure


def small_decoder(seed: int = 0, **changes: int) -> LlamaForCausalLM:
    """A randomly initialised Llama-style decoder of 32 wide and 2 layers."""
    torch.manual_seed(seed)
    settings = {
        "vocab_size": 61,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
    }
    config = LlamaConfig(**(settings | changes), tie_word_embeddings=True, attn_implementation="sdpa")
    return LlamaForCausalLM(config)
