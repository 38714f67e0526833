"""Stage ``gradients``: sketches of one task's gradient at the base model, before any training.

``sketches.npy`` (chunks, size) float32, see `multitask_trainer.affinity.gradients`. It costs two passes over the rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from multitask_api.estimates.fitting import CPU_TOKENS, MOST_TOKENS, fit
from multitask_api.estimates.memory import MemoryModel, MicroBatchShape
from multitask_api.resource.tuning import Tuning
from multitask_api.stage_io.affinity import GradientsResult
from multitask_api.stage_io.parameters import GradientsParameters
from multitask_serving.engine.model.float32 import use_tf32
from multitask_trainer.affinity.gradients import RANK, Probe, ProbedRows, chosen_rows, task_sketches
from multitask_trainer.affinity.sketch import SKETCHES
from multitask_trainer.base_model.loading import (
    check_max_length,
    load_base,
    load_tokenizer,
    read_forward_path,
    read_prompt_format,
)
from multitask_trainer.base_model.model_shape import shape_of
from multitask_trainer.errors import DataError
from multitask_trainer.runtime.context import StageContext, StageOutcome
from multitask_trainer.runtime.runner import main
from multitask_trainer.storage.files import content_digest
from multitask_trainer.training.accelerator import computes_in_bf16
from multitask_trainer.training.batching.dataset import TaskEncoder
from multitask_trainer.training.batching.row_cache import RowCache, prepared_split
from multitask_trainer.training.device_memory import CudaMemory

if TYPE_CHECKING:
    from transformers import PreTrainedModel

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
    mixed = parameters.precision is None and computes_in_bf16(stage.device)
    model = load_base(base, torch.bfloat16 if mixed else torch.float32)
    check_max_length(model, parameters.max_length)
    probe = Probe.of(model, parameters.target_modules, seed=parameters.seed)
    probe.model.to(stage.device)
    sketches = task_sketches(
        probe,
        ProbedRows(dataset, numbers.tolist(), answers),
        seed=parameters.seed,
        path=read_forward_path(base),
        token_budget=_token_budget(stage, model, parameters, dataset.longest - 1, mixed=mixed),
        mixed=mixed,
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


def _token_budget(
    stage: StageContext, model: PreTrainedModel, parameters: GradientsParameters, width: int, *, mixed: bool
) -> int:
    """Tokens of a micro-batch: on a GPU what fits by the estimate, as far as there is one for the base's family."""
    if stage.device == "cpu":
        return CPU_TOKENS
    use_tf32(enabled=True)
    shape = shape_of(model)
    if shape is None:
        return MOST_TOKENS
    tuning = Tuning(method="LoRA", rank=RANK, alpha=RANK, target_modules=parameters.target_modules)
    fitted = fit(
        MemoryModel(shape, tuning, mixed, takes_steps=False),
        CudaMemory(torch.device(stage.device)).free() + sum(value.nbytes for value in model.parameters()),
        setting="Never",
        most_tokens=MOST_TOKENS,
        batch_of=lambda sequences: MicroBatchShape(sequences * width, width, targets=sequences * width),
    )
    return fitted.tokens


if __name__ == "__main__":
    raise SystemExit(main(work))
