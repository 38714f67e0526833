"""Baselines that one process trains, started by the executor of `mtm run`; the stage programs are the real ones."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest
import yaml

from multitask_api.stage_io.manifest import MANIFEST
from multitask_api.stage_io.results import TrainResult
from multitask_api.stages.versions import VERSIONS
from multitask_operator.local import model_file, processes
from multitask_operator.local.executor import Executor
from multitask_operator.local.fork_launcher import ForkLauncher
from multitask_operator.local.workdir import PlannedModel, Workdir, write_atomically
from multitask_operator.planner import Capacity
from multitask_trainer.data.rows import Row
from support.graph_builders import all_done, task
from support.graph_builders import model as built_model
from support.graph_builders import resolved as built_resolved
from support.training_fixtures import TASKS, rows

pytestmark = pytest.mark.integration


class Events:
    """What the user would see."""

    def __init__(self) -> None:
        self.ended: list[tuple[str, float]] = []
        self.failures: list[str] = []
        self.final: list[str] = []
        self.seen: set[str] = set()

    def started(self, stage, attempt) -> None:
        pass

    def finished(self, stage, seconds, manifest) -> None:
        self.ended.append((stage, time.monotonic()))

    def failed(self, stage, failed, *, final) -> None:
        self.failures.append(f"{stage}: {failed.failure.message}")
        if final:
            self.final.append(stage)

    def stopped(self, stage, reason) -> None:
        pass

    def progress(self, plan, running) -> None:
        self.seen |= {stage for stage, _, progress in running if progress is not None and progress.total}


def _line(row: Row) -> str:
    answer = {"label": row.label} if row.label is not None else {"target": row.targets[0]}
    return json.dumps({**row.fields, **answer}) + "\n"


def _model(folder: Path) -> Path:
    tasks = []
    for name, definition in TASKS.items():
        data = {}
        for seed, split in enumerate(("train", "validation", "test")):
            path = folder / f"{name}-{split}.jsonl"
            path.write_text("".join(map(_line, rows(name, 60, seed))), "utf-8")
            data[split] = {"uri": path.name}
        own = {"labels": list(definition.labels)} if definition.labels else {"generation": {"maxNewTokens": 12}}
        tasks.append({"name": name, "type": definition.type, "prompt": definition.prompt, "data": data, **own})
    spec = {
        "baseModel": {"uri": "builtin://micro"},
        "tasks": tasks,
        "tuning": {"method": "LoRA", "rank": 4},
        "stages": {"baseline": {"maxSteps": 8, "seeds": 2}},
        "training": {"batchRows": 8, "maxLength": 48, "minSteps": 2, "evalEvery": 4, "warmupSteps": 2},
    }
    document = {"apiVersion": "multitask.dev/v1alpha1", "kind": "MultiTaskModel", "metadata": {"name": "desk"}}
    file = folder / "model.yaml"
    file.write_text(yaml.safe_dump({**document, "spec": spec}), "utf-8")
    return file


def test_baselines_train_in_one_process_where_there_is_a_gpu_and_each_has_its_result(tmp_path):
    """The device is the CPU all the same: the GPU here is one that the plan believes in."""
    file = _model(tmp_path)
    model, workdir, events = model_file.load(file), Workdir(tmp_path / "work"), Events()
    resolved = model_file.resolve(model, tmp_path, workdir)
    names = {f"baseline/{task}/seed-{17 + seed}" for task in TASKS for seed in (0, 1)}

    with ForkLauncher() as launcher:
        Executor(
            workdir=workdir,
            model=model,
            resolved=resolved,
            versions=VERSIONS,
            data_root=tmp_path,
            capacity=Capacity(cores=2, memory=16 * 1024**3, processes=2, gpus=("0",)),
            view=events,
            launcher=launcher,
            serve=False,
            interrupted=lambda: names <= {stage for stage, _ in events.ended} or bool(events.failures),
            device="cpu",
        ).run()
    assert events.failures == []
    results = {
        manifest.stage: TrainResult.model_validate(manifest.result)
        for manifest in workdir.manifests().values()
        if manifest.kind == "baseline"
    }
    assert {name: result.trained_together for name, result in results.items()} == dict.fromkeys(names, 4)
    assert names <= events.seen, "each has its own progress"
    logs = [workdir.log(name).read_text("utf-8") for name in sorted(names)]
    assert sum("trains together with" in log for log in logs) == 3
    assert sum(log.count(": step 8/8") for log in logs) == 4


class FakeStages:
    """The stage programs are `fake_stage`, in real processes of the real runner; notes which stages each was for."""

    def __init__(self) -> None:
        self.started: list[set[str]] = []

    def start(self, kind, orders, log, environment):
        self.started.append({json.loads(order.read_text())["stage"] for order in orders})
        argv = [sys.executable, str(Path(__file__).with_name("fake_stage.py")), *processes.order_options(orders)]
        return processes.start(argv, log, environment)


def test_baselines_whose_process_one_of_them_ended_are_each_tried_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    model = built_model(task("urgency"), task("intent"), tuning={"method": "LoRA"})
    bad, other = "baseline/intent/seed-17", "baseline/urgency/seed-17"
    (tmp_path / "faults.json").write_text(json.dumps({bad: "exit"}))
    workdir, events, launcher = Workdir(tmp_path / "work"), Events(), FakeStages()
    for key, manifest in all_done(model, until="baseline").items():
        write_atomically(workdir.artifact(key) / MANIFEST, manifest.model_dump_json(by_alias=True))
    workdir.save_plan(PlannedModel(model=model, resolved=built_resolved(model)), VERSIONS)
    Executor(
        workdir=workdir,
        model=model,
        resolved=built_resolved(model),
        versions=VERSIONS,
        data_root=tmp_path,
        capacity=Capacity(cores=2, memory=16 * 1024**3, processes=2, gpus=("0",)),
        view=events,
        launcher=launcher,
        serve=False,
        clock=lambda: 20 * time.monotonic(),  # the wait before the next attempt is short
        device="cpu",
    ).run()
    assert launcher.started == [{bad, other}, {bad}, {other}]
    assert [stage for stage, _ in events.ended] == [other]
    assert [text.split(":")[0] for text in events.failures] == [bad, other, bad]
    assert all("no space left on device" in text for text in events.failures)
    assert events.final == [bad], "the other one failed only because of it"
