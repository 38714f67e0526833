"""A validation and evaluations by 1, 2 and 3 processes; and stages of which one process fails.

Arguments: a folder for what is left, the order of a baseline, and the orders of evaluations.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import torch

from multitask_api.bundle import PromptFormat
from multitask_api.resource.tuning import Tuning
from multitask_api.stage_io.manifest import Manifest, StageFailure, StageOrder
from multitask_serving.engine.engine import Engine
from multitask_trainer.base_model.builtin import make_model, make_tokenizer, size_of
from multitask_trainer.errors import DataError
from multitask_trainer.runtime.context import StageContext
from multitask_trainer.runtime.distributed import DistributedContext
from multitask_trainer.runtime.progress import FileProgressReporter
from multitask_trainer.runtime.runner import run_stage
from multitask_trainer.stages import baseline, evaluate
from multitask_trainer.training.accelerator import make_accelerator
from multitask_trainer.training.batching.dataset import TaskEncoder
from multitask_trainer.training.validation import TaskValidation, validate
from multitask_trainer.tuning import tuning_method
from support.process_group import run_processes
from support.training_fixtures import KIND, TASKS, rows

COUNTS = {"kind": 500, "repeat": 470, "few": 2}
"""Task → its validation rows."""
evaluate_batch = TaskValidation.evaluate_batch


def validate_once(folder: Path) -> int:
    """Leave the points of a CGC-LoRA model, and how many rows this process evaluated, in ``PROCESSES-RANK.json``."""
    accelerator = make_accelerator(device="cpu", threads=1, precision="fp32")
    texts = [text for row in rows("kind", 300, 0) for text in (*row.fields.values(), " fruit", " tool")]
    tokenizer = make_tokenizer(texts, 400)
    method = tuning_method(Tuning(method="CGCLoRA", rank=8), tuple(COUNTS))
    model = method.prepare(make_model(size_of("micro"), tokenizer, 1))
    torch.manual_seed(3)
    with torch.no_grad():  # each task's adapter is another one
        for value in model.parameters():
            if value.requires_grad:
                value.normal_(std=0.5)
    validations = {}
    for name, count in COUNTS.items():
        task = TASKS.get(name) or KIND.model_copy(update={"name": name})
        encoder = TaskEncoder.of(task, tokenizer, max_length=48, chat_template=False, prompt_format=PromptFormat())
        validations[name] = TaskValidation.of(encoder, rows("repeat" if name == "repeat" else "kind", count, 1))
    evaluated = 0

    def counted(self, model, batch_rows, *, token_budget):
        nonlocal evaluated
        evaluated += len(batch_rows)
        return evaluate_batch(self, model, batch_rows, token_budget=token_budget)

    TaskValidation.evaluate_batch = counted

    def select(name: str):
        return method.select_tasks(model, torch.tensor([list(COUNTS).index(name)]))

    points = validate(model, validations, select=select, accelerator=accelerator)
    left = {
        "points": {name: [point.loss.hex(), point.score.hex()] for name, point in points.items()},
        "rows": evaluated,
    }
    name = f"{accelerator.num_processes}-{accelerator.process_index}.json"
    (folder / name).write_text(json.dumps(left))
    return 0


def run_order(order: StageOrder, folder: Path) -> int:
    """Run a stage as one of its processes; how it failed is in ``<stage>.json``."""

    class Results:
        def succeeded(self, manifest: Manifest) -> None:
            del manifest  # it is in the artifact

        def failed(self, failure: StageFailure, digest: str) -> None:
            del digest
            left = {"kind": failure.kind, "message": failure.message}
            (folder / f"{order.kind}.json").write_text(json.dumps(left))

    work = {"baseline": baseline.work, "evaluate": evaluate.work}[order.kind]
    context = StageContext(order, FileProgressReporter(order.stage, None), DistributedContext.of(os.environ))
    return run_stage(work, context, Results())


def fail_in_second_process(order: StageOrder, folder: Path) -> int:
    """Run a stage whose second process fails in a validation, or when it answers."""

    def fail(*_: object, **__: object) -> None:
        (folder / "failed-at").write_text(str(time.monotonic()))
        raise DataError("a row cannot be read")

    if os.environ["RANK"] == "1":
        TaskValidation.evaluate_batch = Engine.classify = fail
    return run_order(order, folder)


def main(folder: Path, baseline_order: Path, evaluations: list[Path]) -> None:
    """All of it."""
    orders = [StageOrder.model_validate_json(path.read_text()) for path in evaluations]
    for processes in (1, 2, 3):
        assert run_processes(processes, lambda: validate_once(folder)) == [0] * processes
        for order in orders:
            own = order.model_copy(update={"output": f"{folder}/{order.stage}-{processes}"})
            statuses = run_processes(processes, lambda own=own: run_order(own, folder))
            assert statuses == [0] * processes
    statuses, seconds = {}, {}
    for order in (StageOrder.model_validate_json(baseline_order.read_text()), orders[0]):
        statuses[order.kind] = run_processes(3, lambda order=order: fail_in_second_process(order, folder))
        seconds[order.kind] = time.monotonic() - float((folder / "failed-at").read_text())
    (folder / "ends.json").write_text(json.dumps({"statuses": statuses, "seconds": seconds}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), [Path(path) for path in sys.argv[3:]])
