"""What baseline, stage 2 and stage 3 share: from an order to trained weights and a `TrainResult`."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from multitask_api.bundle import ForwardPath
from multitask_api.estimates.fitting import CPU_TOKENS, MOST_TOKENS
from multitask_api.stage_io.parameters import TrainParameters
from multitask_api.stage_io.results import GpuMemory, PackedAttention, TrainResult
from multitask_api.stages.digests import digest
from multitask_trainer.base_model.checks.tokens import check_prompt
from multitask_trainer.base_model.loading import (
    check_max_length,
    load_base,
    load_tokenizer,
    read_forward_path,
    read_prompt_format,
)
from multitask_trainer.base_model.quantization import load_quantized
from multitask_trainer.runtime.context import StageContext
from multitask_trainer.runtime.packages import check_quantization
from multitask_trainer.runtime.tracking import Tracking, keep_tensorboard_files, tracking_of
from multitask_trainer.training.accelerator import check_batch_rows, make_accelerator
from multitask_trainer.training.attention.choice import choose_attention
from multitask_trainer.training.batching.dataset import EncodedDataset, TaskEncoder
from multitask_trainer.training.batching.row_cache import RowCache, prepared_split
from multitask_trainer.training.batching.sampler import Sampler
from multitask_trainer.training.batching.task_batches import TaskBatches
from multitask_trainer.training.checkpoint import CheckpointStore, Progress
from multitask_trainer.training.loop import TrainingLoop
from multitask_trainer.training.micro_batch import MicroBatchSize
from multitask_trainer.training.optimizer import OptimizerStep, TrainingSettings
from multitask_trainer.training.parallelism.choice import load_parallel
from multitask_trainer.training.selection import Selection, saturation_step, still_improving
from multitask_trainer.training.stopping import EarlyStopping
from multitask_trainer.training.validation import TaskValidation, validate
from multitask_trainer.tuning import tuning_method

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


def train(stage: StageContext, parameters: TrainParameters, *, start: Path | None = None) -> TrainResult:
    """Train on the order's tasks, from the base or from the weights in ``start``; leaves ``weights/``.

    Every training row of every task can be drawn. The result's weights are those of the chosen checkpoint. All
    processes return, when the main process has written the weights.
    """
    with tracking_of(stage) as tracking:
        result = _train(stage, parameters, start, tracking)
    if stage.distributed.is_main_process:
        keep_tensorboard_files(stage)
    return result


def _train(stage: StageContext, parameters: TrainParameters, start: Path | None, tracking: Tracking) -> TrainResult:
    optimisation = parameters.optimisation
    check_quantization(optimisation.optimizer, parameters.tuning)
    base = stage.input("base") / "model"
    path = read_forward_path(base)
    accelerator = make_accelerator(
        device=stage.device,
        threads=stage.order.threads,
        precision=optimisation.precision,
    )
    data = RunData.read(stage, parameters, path)
    check_batch_rows(optimisation.batch_rows, accelerator)
    sampler, validations = data.sampler, data.validations
    method = tuning_method(parameters.tuning, sampler.names)
    is_half = method.freezes_base and accelerator.mixed_precision == "bf16"

    def load(on_meta: bool) -> nn.Module:
        torch.manual_seed(optimisation.seed)  # new adapter weights are drawn from it
        dtype = torch.bfloat16 if is_half else torch.float32
        if parameters.tuning.quantization is None:
            loaded = load_base(base, dtype, on_meta=on_meta)
        else:
            loaded = load_quantized(base, dtype, accelerator.device)
        data.check_base(loaded, optimisation.max_length)
        prepared = method.prepare(loaded)
        if start is not None and not on_meta:
            method.load(prepared, start)
        return prepared

    model, parallelism = load_parallel(
        load, stage.order.sharding, method, path, accelerator, optimizer=optimisation.optimizer
    )
    stopping = data.stopping(parameters)

    def select(task: str) -> AbstractContextManager[None]:
        return method.select_tasks(model, torch.tensor([sampler.names.index(task)], device=accelerator.device))

    settings = TrainingSettings(parameters.max_steps, optimisation, stage.order.gradient_checkpointing or "Auto")
    step = OptimizerStep(model, settings, method=method, accelerator=accelerator, path=path, parallelism=parallelism)
    batches, attention = choose_attention(
        model,
        step,
        data.batches(optimisation.batch_rows, accelerator, path),
        accelerator,
        max_length=optimisation.max_length,
    )
    loop = TrainingLoop(
        step,
        batches,
        settings,
        accelerator=accelerator,
        store=CheckpointStore(stage.work_folder / "checkpoint", stage.order.checkpoint),
        reporter=stage.reporter,
        validate=lambda: validate(model, validations, select=select, accelerator=accelerator, together=step.evaluation),
        stopping=stopping,
        tracking=tracking,
    )
    progress = loop.run()
    if accelerator.is_main_process:
        method.save(model, stage.artifact_folder / "weights")
    trained = sum(value.numel() for value in model.parameters() if value.requires_grad)
    return data.result(
        progress,
        stopping,
        trained_parameters=trained,
        gpu_memory=gpu_memory(loop.micro_batch, accelerator.device),
        packed_attention=attention,
    )


@dataclass(frozen=True)
class RunData:
    """What a run trains and validates on; of each task, by its name."""

    encoders: Mapping[str, TaskEncoder]
    datasets: Mapping[str, EncodedDataset]
    """The training rows."""
    validations: Mapping[str, TaskValidation]
    sampler: Sampler

    @classmethod
    def read(cls, stage: StageContext, parameters: TrainParameters, path: ForwardPath) -> RunData:
        """Read and encode the rows of the order's tasks."""
        base = stage.input("base") / "model"
        tokenizer = load_tokenizer(base)
        encoders, cache = _encoders(parameters, base, tokenizer), RowCache.of(stage, tokenizer)
        datasets = {}
        for number, (name, encoder) in enumerate(encoders.items()):
            stage.reporter.report("reading", step=number, total=len(encoders))
            datasets[name] = cache.encode(encoder, prepared_split(stage, name, "train"))
        validations = {
            name: TaskValidation.of_split(encoder, prepared_split(stage, name, "validation"), cache, path)
            for name, encoder in encoders.items()
        }
        sampler = Sampler(
            # In the tasks' order, not the mapping's: a digest ignores the order of a mapping, and equal digests must
            # draw equal rows.
            {name: parameters.probabilities[name] for name in encoders},
            {name: len(dataset) for name, dataset in datasets.items()},
            batch_rows=parameters.optimisation.batch_rows,
            seed=parameters.optimisation.seed,
        )
        return cls(encoders, datasets, validations, sampler)

    def check_base(self, model: PreTrainedModel, max_length: int) -> None:
        """Raise `StageError` if the base does not take such rows."""
        check_max_length(model, max_length)  # the base may have been made for a shorter one
        for name, encoder in self.encoders.items():  # and before this task
            check_prompt(model, encoder.tokenizer, name, encoder.pieces, encoder.bos)

    def batches(self, batch_rows: int, accelerator: Accelerator, path: ForwardPath) -> TaskBatches:
        """The rows of every step, for this process."""
        return TaskBatches(
            sampler=self.sampler,
            datasets=[self.datasets[name] for name in self.sampler.names],
            batch_rows=batch_rows,
            token_budget=CPU_TOKENS if accelerator.device.type == "cpu" else MOST_TOKENS,
            pack=accelerator.device.type == "cuda" and path.isolation == "Masks" and path.attention == "sdpa",
            mixed_lengths=path.right_padding,
            process=accelerator.process_index,
            processes=accelerator.num_processes,
        )

    def stopping(self, parameters: TrainParameters) -> EarlyStopping:
        """When the run stops early, and which checkpoint it chooses."""
        is_mixture = parameters.kind == "mixture"
        rows = {name: len(validation.dataset) for name, validation in self.validations.items()} if is_mixture else {}
        selection = Selection(parameters.reference_scores, rows)
        return EarlyStopping(selection, parameters.optimisation.patience, is_mixture=is_mixture)

    def result(
        self,
        progress: Progress,
        stopping: EarlyStopping,
        *,
        trained_parameters: int,
        gpu_memory: GpuMemory | None,
        packed_attention: PackedAttention | None,
    ) -> TrainResult:
        """The result of a run that has ended."""
        chosen = next(point for point in progress.curve if point.step == progress.best_step)
        # A row's last token is only ever a target.
        lengths = [np.diff(self.datasets[name].starts) - 1 for name in self.sampler.names]
        return TrainResult(
            steps=progress.step,
            chosen_step=chosen.step,
            saturation_step=saturation_step(progress.curve),
            still_improving=still_improving(progress.curve, stopping.selection, ended_by_limit=progress.ended_by_limit),
            ended_by="limit" if progress.ended_by_limit else stopping.reason,
            curve=progress.curve,
            validation=chosen.tasks,
            rows_given=self.sampler.rows_drawn(progress.step),
            tokens_given=self.sampler.totals_drawn(progress.step, lengths),
            tokens=progress.tokens,
            truncated_rows={name: dataset.truncated for name, dataset in self.datasets.items() if dataset.truncated},
            gpu_memory=gpu_memory,
            packed_attention=packed_attention,
            trainable_parameters=trained_parameters,
            training_seconds=round(progress.seconds, 3),
            tokens_per_second=None if progress.tokens_per_second is None else round(progress.tokens_per_second, 1),
        )


def gpu_memory(micro_batch: MicroBatchSize, device: torch.device) -> GpuMemory | None:
    """What a training took of its GPU; None on a CPU."""
    if device.type != "cuda":
        return None
    return GpuMemory(
        micro_batch_tokens=micro_batch.tokens,
        gradient_checkpointing=micro_batch.checkpointing,
        peak_bytes=torch.cuda.max_memory_allocated(device),
    )


def checkpoint_digest(result: TrainResult) -> str:
    """What the filter reads of a training run: from these it takes how many rows the task needs."""
    return digest({"saturation": result.saturation_step, "chosen": result.chosen_step})


def validation_digest(result: TrainResult) -> str:
    """What a mixture reads of a baseline: the scores its checkpoints are compared with."""
    return digest({name: point.score for name, point in result.validation.items()})


def sampling_table(result: TrainResult, parameters: TrainParameters) -> str:
    """How many rows each task was given, against its probability; one line a task."""
    total = sum(result.rows_given.values())
    lines = [
        f"  {name}: {count} rows, {count / total:.4f} of all, probability {parameters.probabilities[name]:.4f}"
        for name, count in result.rows_given.items()
    ]
    return "\n".join(["rows given:", *lines])


def _encoders(parameters: TrainParameters, base: Path, tokenizer: PreTrainedTokenizerFast) -> dict[str, TaskEncoder]:
    prompt_format = read_prompt_format(base)
    return {
        task.name: TaskEncoder.of(
            task,
            tokenizer,
            max_length=parameters.optimisation.max_length,
            chat_template=parameters.chat_template,
            prompt_format=prompt_format,
        )
        for task in parameters.tasks
    }
