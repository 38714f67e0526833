"""A multi-task suite that trains in about a minute, and `mtm` as a user runs it.

``topic``, ``urgency`` and ``reply`` (generation) follow from words in the text and are learnt in seconds. ``mood`` has
few rows and random labels: no model reliably beats a constant answer, so its verdict is Inconclusive and its own
single-task model answers it.
"""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

from devcluster.cluster_client import CommandResult
from multitask_serving.triton.server import free_port

THINGS = {
    "billing": ("invoice", "refund", "charge"),
    "delivery": ("parcel", "courier", "van"),
    "account": ("login", "password", "profile"),
}
HASTE = {"low": ("someday", "whenever"), "medium": ("soon", "today"), "high": ("now", "urgent")}
REPLIES = {"billing": "ask finance", "delivery": "ring the depot", "account": "reset it"}
OPENERS = ("hello", "please", "dear team", "hi", "good day")
MIDDLES = ("about my", "see the", "question on the", "look at the")
CLOSERS = ("thanks", "regards", "cheers", "yours", "bye", "see you")
ROWS = {"train": 320, "validation": 60, "test": 160}
FEW_ROWS = {"train": 60, "validation": 40, "test": 40}
RUN_SECONDS = 800


@dataclass(frozen=True)
class ModelFolder:
    """A folder with ``model.yaml``, its data and its work folder ``work``."""

    folder: Path

    @property
    def file(self) -> Path:
        return self.folder / "model.yaml"

    @property
    def work(self) -> Path:
        return self.folder / "work"

    def copy(self, folder: Path) -> ModelFolder:
        """Copy the folder with its results to ``folder``."""
        shutil.copytree(self.folder, folder, symlinks=True)
        return ModelFolder(folder)

    def edit(self, change: Mapping[str, Any]) -> None:
        """Merge ``change`` into the file's spec."""
        document = yaml.safe_load(self.file.read_text())
        _merge(document["spec"], change)
        self.file.write_text(yaml.safe_dump(document))

    def add_task(self, name: str) -> None:
        """Add a task like ``mood``: it saturates early, so that stage 2 does not change."""
        write_data(self.folder / "data", name, mood_rows(seed=99), FEW_ROWS)
        document = yaml.safe_load(self.file.read_text())
        document["spec"]["tasks"].append(task(name, "Classification", labels=["glad", "cross"]))
        self.file.write_text(yaml.safe_dump(document))

    def mtm(self, command: str, *options: str, timeout: float = RUN_SECONDS) -> CommandResult:
        """`mtm COMMAND FILE --workdir WORK` to its end."""
        return mtm(command, str(self.file), "--workdir", str(self.work), *options, timeout=timeout)

    def start(self, *options: str, log: Path) -> subprocess.Popen[str]:
        """`mtm run` in a session of its own, its output in ``log``."""
        with log.open("w") as out:
            argv = [*MTM, "run", str(self.file), "--workdir", str(self.work), *options]
            return subprocess.Popen(argv, stdout=out, stderr=out, env=environment(), text=True, start_new_session=True)

    def report(self) -> dict[str, Any]:
        return json.loads((self.work / "report.json").read_text())

    def stages_run(self) -> set[str]:
        """The stages that the last run ran."""
        return {stage["name"] for stage in self.report()["stages"] if not stage["cached"] and stage["skipped"] is None}

    def manifests(self) -> dict[str, dict[str, Any]]:
        """Stage → its manifest; AssertionError if a stage has several results."""
        by_stage: dict[str, dict[str, Any]] = {}
        for path in sorted(self.work.glob("stages/**/manifest.json")):
            manifest = json.loads(path.read_text())
            assert manifest["stage"] not in by_stage, f"two results of {manifest['stage']}"
            by_stage[manifest["stage"]] = manifest
        return by_stage


MTM = (sys.executable, "-m", "multitask_operator")


def environment() -> dict[str, str]:
    """Lines of 200 characters: tables are not folded."""
    return {**os.environ, "COLUMNS": "200", "NO_COLOR": "1"}


def mtm(*arguments: str, timeout: float = RUN_SECONDS) -> CommandResult:
    """`mtm` with these arguments, to its end."""
    done = subprocess.run(
        [*MTM, *arguments], capture_output=True, text=True, timeout=timeout, env=environment(), check=False
    )
    return CommandResult(done.returncode, done.stdout, done.stderr)


@dataclass(frozen=True)
class Service:
    """A running `mtm serve`."""

    process: subprocess.Popen[str]
    address: str
    triton_port: int

    def triton_processes(self) -> list[psutil.Process]:
        """Triton and its stubs."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def stop(self) -> int:
        """End it with SIGTERM; its exit status."""
        self.process.terminate()
        self.process.communicate(timeout=60)
        return self.process.returncode


@contextmanager
def serving(model_folder: ModelFolder, *, tasks: int) -> Iterator[Service]:
    """Run `mtm serve`; entered once it prints that it serves ``tasks`` tasks."""
    port = free_port()
    options = ["--address", "127.0.0.1:0", "--triton-port", str(port), "--threads", "1"]
    process = subprocess.Popen(
        [*MTM, "serve", str(model_folder.work), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        start_new_session=True,
    )
    try:
        line = process.stdout.readline() if process.stdout else ""
        assert line.startswith(f"serving {tasks} tasks on 127.0.0.1:"), line + process.communicate(timeout=60)[1]
        service = Service(process, line.split()[-1], port)
        yield service
    finally:
        if process.poll() is None:
            process.terminate()
            process.communicate(timeout=60)


def run_once(folder: Path) -> CommandResult:
    """Write the suite to ``folder`` and run it."""
    return make_small_suite(folder).mtm("run")


def make_small_suite(folder: Path) -> ModelFolder:
    """Write the suite's ``model.yaml`` and data."""
    data = folder / "data"
    write_data(data, "topic", topic_rows(seed=1), ROWS)
    write_data(data, "urgency", urgency_rows(seed=2), ROWS)
    write_data(data, "reply", reply_rows(seed=3), ROWS)
    write_data(data, "mood", mood_rows(seed=4), FEW_ROWS)
    model_folder = ModelFolder(folder)
    model_folder.file.write_text(yaml.safe_dump(document()))
    return model_folder


def document() -> dict[str, Any]:
    """The resource: a minute of training at most."""
    spec = {
        "baseModel": {"uri": "builtin://micro"},
        "pretraining": {"tasksText": True, "maxSteps": 100},
        "tasks": [
            task("topic", "Classification", labels=list(THINGS)),
            task("urgency", "Classification", labels=list(HASTE), taxonomy="Ordinal"),
            task("mood", "Classification", labels=["glad", "cross"]),
            task("reply", "Generation", metric="ExactMatch", generation={"maxNewTokens": 12, "stop": ["\n"]}),
        ],
        "filtering": {"strategy": "Type"},
        "stages": {
            "baseline": {"maxSteps": 140, "seeds": 1},
            # topic and urgency get better to the end; mood only learns its few rows by heart, and saturates early.
            "highResource": {"minSaturationSteps": 110, "maxSteps": 60, "minSteps": 60},
            "mixture": {"temperature": 2.0, "maxSteps": 260, "minSteps": 200},
        },
        "tuning": {"method": "Full"},
        "qualification": {"threshold": 0.95, "promote": "Qualified"},
        "training": {
            "batchRows": 16,
            "learningRate": 5e-3,
            "warmupSteps": 5,
            "maxLength": 48,
            "seed": 17,
            "evalEvery": 20,
            "minSteps": 100,
            "patience": 3,
            "precision": "fp32",
            "gpusPerNode": 0,
        },
    }
    return {
        "apiVersion": "multitask.dev/v1alpha1",
        "kind": "MultiTaskModel",
        "metadata": {"name": "desk"},
        "spec": copy.deepcopy(spec),
    }


def task(name: str, kind: str, **more: Any) -> dict[str, Any]:
    """One task of the resource, its data beside it."""
    data = {split: {"uri": f"data/{name}/{split}.jsonl"} for split in ROWS}
    return {"name": name, "type": kind, "prompt": f"{{text}}\n{name}:", "data": data, **more}


def write_data(folder: Path, name: str, rows: Iterator[dict[str, str]], counts: Mapping[str, int]) -> None:
    """The next rows as the splits of a task."""
    (folder / name).mkdir(parents=True)
    for split, count in counts.items():
        lines = [json.dumps(next(rows)) for _ in range(count)]
        (folder / name / f"{split}.jsonl").write_text("\n".join(lines) + "\n")


def message(choice: random.Random) -> tuple[str, str, str]:
    """A text, and the topic and the urgency that its words say."""
    topic, level = choice.choice(list(THINGS)), choice.choice(list(HASTE))
    thing, haste = choice.choice(THINGS[topic]), choice.choice(HASTE[level])
    text = f"{choice.choice(OPENERS)} {choice.choice(MIDDLES)} {thing} {haste} {choice.choice(CLOSERS)}"
    return text, topic, level


def topic_rows(seed: int) -> Iterator[dict[str, str]]:
    choice = random.Random(seed)
    while True:
        text, topic, _ = message(choice)
        yield {"text": text, "label": topic}


def urgency_rows(seed: int) -> Iterator[dict[str, str]]:
    choice = random.Random(seed)
    while True:
        text, _, level = message(choice)
        yield {"text": text, "label": level}


def reply_rows(seed: int) -> Iterator[dict[str, str]]:
    choice = random.Random(seed)
    while True:
        text, topic, _ = message(choice)
        yield {"text": text, "target": REPLIES[topic]}


def mood_rows(seed: int) -> Iterator[dict[str, str]]:
    """Random labels: there is nothing to learn."""
    choice = random.Random(seed)
    while True:
        yield {"text": message(choice)[0], "label": choice.choice(["glad", "cross"])}


def _merge(into: dict[str, Any], change: Mapping[str, Any]) -> None:
    for key, value in change.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value
