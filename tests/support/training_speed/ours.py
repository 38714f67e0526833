"""Our side: the steps of the training loop."""

from __future__ import annotations

import resource
import time

import torch

from multitask_api.bundle import ForwardPath
from multitask_api.stage_io.parameters import Optimisation
from multitask_trainer.errors import GpuInUse, MicroBatchTooLarge, StageError
from multitask_trainer.training.accelerator import make_accelerator, seed_step
from multitask_trainer.training.attention.choice import choose_attention
from multitask_trainer.training.batching.task_batches import TaskBatches
from multitask_trainer.training.device_memory import CudaMemory
from multitask_trainer.training.loss_meter import LossMeter
from multitask_trainer.training.micro_batch import fit
from multitask_trainer.training.optimizer import OptimizerStep, TrainingSettings
from multitask_trainer.tuning import tuning_method
from support.training_speed.bases import TASKS, SpeedRows
from support.training_speed.combination import (
    LEARNING_RATE,
    MIB,
    Combination,
    Deadline,
    Measured,
    PeakMemory,
    memory_settings,
    out_of_memory,
    synchronise,
    total_memory,
    trained_weights,
)


class OurSteps:
    """The steps of `TrainingLoop`, without its validation and checkpoints."""

    def __init__(self, combination: Combination, rows: SpeedRows, measured: Measured) -> None:
        settings = memory_settings(combination)
        self._device, self._measured = combination.device, measured
        self._peak = PeakMemory(combination.device, measured)
        self._accelerator = make_accelerator(
            device=combination.device, threads=combination.threads, precision=combination.precision
        )
        method = tuning_method(combination.tuning, TASKS)
        base = combination.shape.model(self._accelerator.device, settings.base_dtype)
        torch.manual_seed(1)  # the new adapter is drawn from it
        model = method.prepare(base)
        optimisation = Optimisation(
            batch_rows=combination.batch_rows, learning_rate=LEARNING_RATE, warmup_steps=0, max_length=2048, seed=0,
            eval_every=10**6, min_steps=0, patience=1, precision=combination.precision,
        )  # fmt: skip
        self._step = OptimizerStep(
            model,
            TrainingSettings(10**6, optimisation),
            method=method,
            accelerator=self._accelerator,
            path=ForwardPath(),
        )
        self._step.loss.train()
        if settings.checkpointing:
            self._step.use_checkpointing()
        self._meter = LossMeter(self._accelerator)
        batches = TaskBatches(
            sampler=rows.sampler,
            datasets=rows.datasets,
            batch_rows=combination.batch_rows,
            token_budget=settings.micro_batch_tokens,
            pack=settings.pack,
        )
        self._batches, attention = choose_attention(
            model, self._step, batches, self._accelerator, max_length=optimisation.max_length
        )
        measured.attention = attention and f"{attention.kind}: {attention.reason}"
        measured.checkpointing = settings.checkpointing
        if combination.device != "cpu" and combination.micro_batch_tokens is None:
            size = fit(self._step, self._batches, self._accelerator, CudaMemory(self._accelerator.device))
            self._batches = self._batches.with_budget(size.tokens)
            measured.checkpointing |= size.checkpointing
        measured.micro_batch_tokens = self._batches.token_budget
        measured.trained = trained_weights(model)

    def run(self, others: float = 0.0) -> None:
        """The next step; ``others`` MiB of the GPU belong to the other side."""
        step = len(self._measured.losses)
        self._peak.begin(others)
        synchronise(self._device)
        begun, cpu_begun = time.perf_counter(), time.process_time()
        seed_step(0, step)
        micro_batches, present = self._batches.at(step), self._batches.present(step)
        self._step.run(micro_batches, present, rate=LEARNING_RATE, meter=self._meter)
        self._meter.end_step()
        synchronise(self._device)
        self._measured.seconds.append(time.perf_counter() - begun)
        self._measured.cpu_seconds.append(time.process_time() - cpu_begun)
        self._peak.end()
        self._measured.micro_batches = len(micro_batches)
        reading = self._meter.read(step)
        self._measured.losses.append(reading.loss_sum if reading else float("nan"))


class OurSide:
    """Our steps until they end or are out of memory."""

    def __init__(self, combination: Combination, rows: SpeedRows, measured: Measured) -> None:
        self._combination, self._rows, self._measured = combination, rows, measured
        self._steps: OurSteps | None = None

    def run_alone(self, end: int, deadline: Deadline) -> None:
        """As far as step ``end``, or to the first step that counts if the time is over."""
        measured = self._measured
        try:
            while not measured.out_of_memory and len(measured.losses) < end:
                if deadline.passed and len(measured.losses) > self._combination.warmup:
                    return
                self.run()
        except (torch.OutOfMemoryError, MicroBatchTooLarge, GpuInUse, StageError) as error:
            measured.out_of_memory = out_of_memory(error, len(measured.seconds))
            self.close()

    def run(self, others: float = 0.0) -> None:
        """The next step; ``others`` MiB of the GPU belong to the other side."""
        if self._steps is None:
            self._steps = OurSteps(self._combination, self._rows, self._measured)
        self._steps.run(others)

    def leaves_room(self) -> bool:
        """Whether HF Trainer fits beside it if it needs no more than twice as much."""
        if self._measured.out_of_memory:
            return False
        if self._combination.device != "cpu":
            mine = (self._measured.peak_mib or 0.0) * MIB
        else:
            mine = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return 3 * mine < total_memory(self._combination.device)

    def close(self) -> None:
        """Let the model go."""
        self._steps = None
