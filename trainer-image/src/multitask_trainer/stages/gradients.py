"""Stage ``gradients``: sketches of one task's gradient at the base model, before any training.

``sketches.npy`` (chunks, size) float32, see `multitask_trainer.affinity.gradients`. It costs two passes over the rows.
"""

from __future__ import annotations

import numpy as np
import torch

from multitask_api.estimates.fitting import CPU_TOKENS, MOST_TOKENS
from multitask_api.stage_io.affinity import GradientsResult
from multitask_api.stage_io.parameters import GradientsParameters
from multitask_trainer.affinity.gradients import Probe, ProbedRows, chosen_rows, task_sketches
from multitask_trainer.affinity.sketch import SKETCHES
from multitask_trainer.base_model.loading import (
    check_max_length,
    load_base,
    load_tokenizer,
    read_forward_path,
    read_prompt_format,
)
from multitask_trainer.errors import DataError
from multitask_trainer.runtime.context import StageContext, StageOutcome
from multitask_trainer.runtime.runner import main
from multitask_trainer.storage.files import content_digest
from multitask_trainer.training.batching.dataset import TaskEncoder
from multitask_trainer.training.batching.row_cache import RowCache, prepared_split

_FEWEST = 4
"""Rows for two parts."""


def work(stage: StageContext) -> StageOutcome:
    """Take the gradients; no weight changes."""
    parameters = stage.parameters(GradientsParameters)
    name, base = parameters.task.name, stage.input("base") / "model"
    split = prepared_split(stage, name, "train")
    numbers = chosen_rows(len(split), parameters.rows, task=name, seed=parameters.seed)
    if len(numbers) < _FEWEST:
        raise DataError(
            f"task {name}: {len(numbers)} training rows are too few to compare its gradients with those of other tasks;"
            " add rows, or set filtering.strategy to Type or Manual"
        )
    torch.set_num_threads(stage.order.threads)
    tokenizer = load_tokenizer(base)
    encoder = TaskEncoder.of(
        parameters.task,
        tokenizer,
        max_length=parameters.max_length,
        chat_template=parameters.chat_template,
        prompt_format=read_prompt_format(base),
    )
    dataset = RowCache.of(stage, tokenizer).encode(encoder, split)
    answers = [row.answer for row in split.take(numbers)]
    model = load_base(base)
    check_max_length(model, parameters.max_length)
    probe = Probe.of(model, parameters.target_modules, seed=parameters.seed)
    probe.model.to(stage.device)
    sketches = task_sketches(
        probe,
        ProbedRows(dataset, numbers.tolist(), answers),
        seed=parameters.seed,
        path=read_forward_path(base),
        token_budget=CPU_TOKENS if stage.device == "cpu" else MOST_TOKENS,
        report=lambda step, total: stage.reporter.report("gradients", step=step, total=total),
    )
    np.save(stage.artifact_folder / SKETCHES, sketches)
    result = GradientsResult(
        rows=len(numbers),
        chunks=len(sketches),
        weights=sum(value.numel() for value in probe.weights.values()),
        truncated_rows=dataset.truncated_of(numbers),
    )
    return StageOutcome(result, {"gradients": content_digest(stage.artifact_folder, [SKETCHES])})


if __name__ == "__main__":
    raise SystemExit(main(work))
