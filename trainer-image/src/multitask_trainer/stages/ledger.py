"""Stage ``ledger``: N single-task servers, each on this same engine, against the one server that was exported."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from statistics import median

from multitask_api.bundle import BASELINE, Bundle
from multitask_api.stage_io.parameters import LedgerParameters
from multitask_api.stage_io.results import BaseResult, ExportResult, LedgerResult, TrainResult
from multitask_api.stages.digests import digest
from multitask_serving.engine.engine import Engine, read_bundle
from multitask_trainer.bundling import Part, place_parts, write_bundle
from multitask_trainer.data.rows import Row, read_rows
from multitask_trainer.device import resolve_device
from multitask_trainer.exporting import form_in_bundle
from multitask_trainer.judging.ledger import (
    multi_task_side,
    multi_task_training,
    reduction,
    single_task_side,
    single_task_training,
)
from multitask_trainer.measuring import Load, answer, runtime_bytes, window
from multitask_trainer.precision import Precision
from multitask_trainer.stage import Outcome, Stage, run

ROWS = 256
"""Test rows of a task that make up its load."""
ROUNDS = 3


def work(stage: Stage) -> Outcome:
    """Measure both sides in turns on the same rows, and count what each costs."""
    parameters = stage.parameters(LedgerParameters)
    exported = ExportResult.model_validate(stage.manifest_of("export").result)
    served = [item for item in exported.tasks if item.served_by is not None]
    rows = {item.task: read_rows(stage.input(f"prepare/{item.task}"), "test")[:ROWS] for item in served}
    rates, sizes, mixed = _measure(stage, rows) if served else ({}, {}, 0.0)
    base = BaseResult.model_validate(stage.manifest_of("base").result).training_seconds
    runs, shared = _single_task_seconds(stage), {kind: _seconds(stage, kind) for kind in ("high-resource", "mixture")}
    load = parameters.load_per_task
    single = single_task_side(rates, sizes, single_task_training(base, runs), load)
    multi = multi_task_side(mixed, exported.models, multi_task_training(base, runs, shared), load, len(served))
    result = LedgerResult(
        single_task=single,
        multi_task=multi,
        reduction=reduction(single, multi),
        load_per_task=load,
        runtime_bytes=runtime_bytes(),
        leftover_models=sum(item.served_by == BASELINE for item in served),
    )
    return Outcome(result, {"result": digest(result.to_json())})


def _measure(stage: Stage, rows: Mapping[str, list[Row]]) -> tuple[dict[str, float], dict[str, int], float]:
    """Task → requests/s and bytes of its own server, and requests/s of the one server under the mixed load.

    The two take turns, so that what else the machine does slows both; the figures are medians.
    """
    device, threads = resolve_device(stage.order.device), stage.order.threads
    exported = stage.input("export") / "bundle"
    together = Engine.load(exported, device=device, threads=threads)
    mixed_load = Load(rows)
    answer(together, mixed_load.batch())  # the first batch pays for what is set up once
    rates: dict[str, float] = {}
    sizes: dict[str, int] = {}
    mixed = []
    for number, task in enumerate(rows):
        stage.reporter.report(f"measuring {task}", step=number, total=len(rows))
        folder = stage.scratch / "single"
        shutil.rmtree(folder, ignore_errors=True)
        bundle = _single_task_bundle(stage, task, exported, folder)
        alone, load = Engine.load(folder, device=device, threads=threads), Load({task: rows[task]})
        answer(alone, load.batch())
        windows = []
        for _ in range(ROUNDS):
            windows.append(window(alone, load))
            mixed.append(window(together, mixed_load))
        rates[task] = median(windows)
        sizes[task] = sum(model.bytes for model in bundle.models)
    return rates, sizes, median(mixed)


def _single_task_bundle(stage: Stage, task: str, exported: Path, folder: Path) -> Bundle:
    """The bundle of a server for one task: its first baseline, or, without one, a model of its mixture's size."""
    bundle = read_bundle(exported)
    served = next(item for item in bundle.tasks if item.name == task)
    baselines = stage.inputs_of(f"baseline/{task}/")
    form = stage.input(baselines[0]) / "served" if baselines else form_in_bundle(exported, served, folder / "form")
    precision: Precision = "fp32" if bundle.models[0].dtype == "float32" else "bf16"
    placed = place_parts(folder, stage.input("base") / "model", [Part(task, form)], precision)
    home = placed.homes[task]
    alone = served.model_copy(update={"model": home.model, "adapter": home.adapter})
    single = Bundle(revision=bundle.revision, models=placed.models, tasks=(alone,))
    write_bundle(folder, single)
    return single


def _single_task_seconds(stage: Stage) -> dict[str, list[float]]:
    """Task → training seconds of each of its single-task runs."""
    tasks = dict.fromkeys(name.split("/")[1] for name in stage.inputs_of("baseline/"))
    return {task: _seconds(stage, f"baseline/{task}") for task in tasks}


def _seconds(stage: Stage, below: str) -> list[float]:
    """Training seconds of every input whose name begins with ``below`` and a slash."""
    found = [stage.manifest_of(name).result for name in stage.inputs_of(f"{below}/")]
    return [TrainResult.model_validate(result).training_seconds for result in found]


if __name__ == "__main__":
    raise SystemExit(run(work))
