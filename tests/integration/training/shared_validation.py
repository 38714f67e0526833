"""A validation by 1, 2 and 3 processes, and a training whose second process fails in a validation."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import torch

from multitask_api.bundle import PromptFormat
from multitask_api.resource.tuning import Tuning
from multitask_api.stage_io.manifest import StageFailure, StageOrder
from multitask_trainer.base_model.builtin import make_model, make_tokenizer, size_of
from multitask_trainer.errors import DataError
from multitask_trainer.runtime.context import StageContext
from multitask_trainer.runtime.distributed import DistributedContext
from multitask_trainer.runtime.progress import FileProgressReporter
from multitask_trainer.runtime.runner import run_stage
from multitask_trainer.stages import baseline
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


def fail_in_second_process(folder: Path, order: Path) -> int:
    """Run a baseline; its failure and the seconds since its first validation are in ``failure.json``."""
    begun: list[float] = []

    def failing(self, model, batch_rows, *, token_budget):
        begun.append(time.monotonic())
        if os.environ["RANK"] == "1":
            raise DataError("a row cannot be read")
        return evaluate_batch(self, model, batch_rows, token_budget=token_budget)

    TaskValidation.evaluate_batch = failing
    read = StageOrder.model_validate_json(order.read_text())

    class Results:
        def succeeded(self, manifest):
            raise AssertionError(manifest)

        def failed(self, failure: StageFailure, digest: str) -> None:
            del digest
            seconds = time.monotonic() - begun[0]
            left = {"kind": failure.kind, "message": failure.message, "seconds": seconds}
            (folder / "failure.json").write_text(json.dumps(left))

    context = StageContext(read, FileProgressReporter(read.stage, None), DistributedContext.of(os.environ))
    return run_stage(baseline.work, context, Results())


def main(folder: Path, order: Path) -> None:
    """All of it."""
    for processes in (1, 2, 3):
        assert run_processes(processes, lambda: validate_once(folder)) == [0] * processes
    statuses = run_processes(3, lambda: fail_in_second_process(folder, order))
    (folder / "statuses.json").write_text(json.dumps(statuses))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
