"""Stage ``ledger``: N single-task servers, each on this same engine, against the one server that was exported."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from statistics import median

from multitask_api.bundle import BASELINE, Bundle
from multitask_api.stage_io.ledger import LedgerResult
from multitask_api.stage_io.parameters import LedgerParameters
from multitask_api.stage_io.results import BaseResult, ExportResult, TrainResult
from multitask_api.stages.digests import digest
from multitask_serving.engine.engine import Engine, read_bundle
from multitask_trainer.base_model.loading import Precision
from multitask_trainer.data.rows import Row, read_rows
from multitask_trainer.evaluation.ledger import (
    multi_task_side,
    multi_task_training,
    reduction,
    single_task_side,
    single_task_training,
)
from multitask_trainer.evaluation.throughput import RequestStream, answer_batch, requests_per_second, runtime_bytes
from multitask_trainer.export.bundle import ServableWeights, place_servables, write_bundle
from multitask_trainer.export.routed_bundle import extract_servable
from multitask_trainer.runtime.context import StageContext, StageOutcome
from multitask_trainer.runtime.runner import main

ROWS = 256
"""Test rows of a task that make up its load."""
ROUNDS = 3


def work(stage: StageContext) -> StageOutcome:
    """Measure both sides in turns on the same rows, and count what each costs."""
    parameters = stage.parameters(LedgerParameters)
    exported = ExportResult.model_validate(stage.input_manifest("export").result)
    served = [item for item in exported.tasks if item.served_by is not None]
    rows = {item.task: read_rows(stage.input(f"prepare/{item.task}"), "test")[:ROWS] for item in served}
    rates, sizes, mixed = _measure(stage, rows) if served else ({}, {}, 0.0)
    base = BaseResult.model_validate(stage.input_manifest("base").result).training_seconds
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
    return StageOutcome(result, {"result": digest(result.to_json())})


def _measure(stage: StageContext, rows: Mapping[str, list[Row]]) -> tuple[dict[str, float], dict[str, int], float]:
    """Task → requests/s and bytes of its own server, and requests/s of the one server under the mixed load.

    The two take turns, so that other load on the machine slows both; the figures are medians.
    """
    device, threads = stage.device, stage.order.threads
    exported = stage.input("export") / "bundle"
    together = Engine.load(exported, device=device, threads=threads)
    mixed_load = RequestStream(rows)
    answer_batch(together, mixed_load.next_batch())  # the first batch pays for what is set up once
    rates: dict[str, float] = {}
    sizes: dict[str, int] = {}
    mixed = []
    for number, task in enumerate(rows):
        stage.reporter.report(f"measuring {task}", step=number, total=len(rows))
        folder = stage.scratch_folder / "single"
        shutil.rmtree(folder, ignore_errors=True)
        bundle = _single_task_bundle(stage, task, exported, folder)
        alone, load = Engine.load(folder, device=device, threads=threads), RequestStream({task: rows[task]})
        answer_batch(alone, load.next_batch())
        windows = []
        for _ in range(ROUNDS):
            windows.append(requests_per_second(alone, load))
            mixed.append(requests_per_second(together, mixed_load))
        rates[task] = median(windows)
        sizes[task] = sum(model.bytes for model in bundle.models)
    return rates, sizes, median(mixed)


def _single_task_bundle(stage: StageContext, task: str, exported: Path, folder: Path) -> Bundle:
    """The bundle of a server for one task: its first baseline, or, without one, a model of its mixture's size."""
    bundle = read_bundle(exported)
    served = next(item for item in bundle.tasks if item.name == task)
    baselines = stage.input_names(f"baseline/{task}/")
    if baselines:
        servable = stage.input(baselines[0]) / "served"
    else:
        servable = extract_servable(exported, served, folder / "servable")
    precision: Precision = "fp32" if bundle.models[0].dtype == "float32" else "bf16"
    placed = place_servables(folder, stage.input("base") / "model", [ServableWeights(task, servable)], precision)
    placement = placed.placements[task]
    binding = served.model_copy(update={"model": placement.model, "adapter": placement.adapter})
    single = Bundle(revision=bundle.revision, models=placed.models, tasks=(binding,))
    write_bundle(folder, single)
    return single


def _single_task_seconds(stage: StageContext) -> dict[str, list[float]]:
    """Task → training seconds of each of its single-task runs."""
    tasks = dict.fromkeys(name.split("/")[1] for name in stage.input_names("baseline/"))
    return {task: _seconds(stage, f"baseline/{task}") for task in tasks}


def _seconds(stage: StageContext, below: str) -> list[float]:
    """Training seconds of every input whose name begins with ``below`` and a slash."""
    results = [stage.input_manifest(name).result for name in stage.input_names(f"{below}/")]
    return [TrainResult.model_validate(result).training_seconds for result in results]


if __name__ == "__main__":
    raise SystemExit(main(work))
