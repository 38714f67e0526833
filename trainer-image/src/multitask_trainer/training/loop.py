"""The training loop: steps, validations, the start of the decay, checkpoints; resumes from the last checkpoint."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from multitask_api.stage_io.results import CurvePoint, TaskPoint
from multitask_trainer.errors import Interrupted
from multitask_trainer.runtime.progress import ProgressReporter, TrainingLog
from multitask_trainer.runtime.tracking import Tracking
from multitask_trainer.training.accelerator import catch_sigterm, seed_step
from multitask_trainer.training.batching.batches import Batches
from multitask_trainer.training.batching.prefetch import Prefetcher
from multitask_trainer.training.checkpoint import CheckpointStore, Progress
from multitask_trainer.training.device_memory import CudaMemory, DeviceMemory, SharedMemory, halve_until_it_fits
from multitask_trainer.training.loss_meter import STEPS_PER_READ, LossMeter
from multitask_trainer.training.micro_batch import MicroBatchSize, fit
from multitask_trainer.training.optimizer import OptimizerStep, TrainingSettings
from multitask_trainer.training.parallelism.checkpoints import Checkpoints
from multitask_trainer.training.schedule import Schedule, is_evenly_spaced
from multitask_trainer.training.selection import Selection, is_better, mean_loss
from multitask_trainer.training.stopping import REASONS, EarlyStopping

if TYPE_CHECKING:
    from accelerate import Accelerator

Validate = Callable[[], dict[str, TaskPoint]]
"""Called in all processes at once; gives all of them the same."""


class TrainingLoop:
    """One run of ``optimizer_step``, by one process or several; ``name`` begins the lines of its log.

    Without ``validate`` (pre-training) the last weights are the result; with it, the best by the selection of
    ``stopping``.
    """

    def __init__(
        self,
        optimizer_step: OptimizerStep,
        batches: Batches,
        settings: TrainingSettings,
        *,
        accelerator: Accelerator,
        store: CheckpointStore,
        reporter: ProgressReporter,
        validate: Validate | None = None,
        stopping: EarlyStopping | None = None,
        tracking: Tracking | None = None,
        name: str = "",
    ) -> None:
        self._optimizer_step = optimizer_step
        self._batches = batches
        self._prefetcher = Prefetcher(pin=accelerator.device.type == "cuda")
        self._optimisation = settings.optimisation
        self._schedule = Schedule(settings.optimisation.warmup_steps, settings.max_steps)
        self._accelerator = accelerator
        self._checkpoints = Checkpoints(optimizer_step, store, accelerator)
        self._reporter = reporter
        self._log = TrainingLog(name, is_written=accelerator.is_main_process)
        self._validate = validate
        self._stopping = stopping or EarlyStopping(Selection({}), settings.optimisation.patience)
        self._selection = self._stopping.selection
        self._tracking = tracking or Tracking()
        self.meter = LossMeter(accelerator)
        self._last_loss: float | None = None
        self.progress = Progress()
        self.micro_batch = MicroBatchSize(batches.token_budget, optimizer_step.is_checkpointing)

    def run(self) -> Progress:
        """Train to the end; the main process's model then has the chosen weights. Raises `Interrupted` on SIGTERM.

        Sharded weights are whole there then, on the CPU.
        """
        self._optimizer_step.loss.train()
        if self._accelerator.device.type == "cuda":
            memory: DeviceMemory = CudaMemory(self._accelerator.device)
            if self._optimizer_step.tries_together:
                memory = SharedMemory(memory, self._accelerator.device)
            self._set_micro_batch(fit(self._optimizer_step, self._batches, self._accelerator, memory))
        self.resume()
        with catch_sigterm() as stop_requested, self._prefetcher, self._checkpoints:
            while not self.has_ended:
                if self._any_process_stopped(stop_requested()):
                    raise self.interrupt()
                begun = time.monotonic()
                self._step(self.begin_step())
                self.end_step(time.monotonic() - begun)
        self.finish()
        return self.progress

    @property
    def has_ended(self) -> bool:
        """Whether all steps are made."""
        return self.progress.step >= self._end

    def interrupt(self) -> Interrupted:
        """Leave a checkpoint; the error that says so."""
        self.leave_checkpoint()
        return Interrupted(f"stopped after step {self.progress.step}; running the stage again continues from there")

    def leave_checkpoint(self) -> None:
        """Leave a checkpoint of now; it is written when this returns."""
        self._save()
        self._checkpoints.wait()

    def drain(self) -> None:
        """After an error: wait until no checkpoint is being written any more."""
        self._checkpoints.drain()

    def finish(self) -> None:
        """Put the chosen weights into the main process's model; all processes call it."""
        self._checkpoints.wait()
        step, is_main = self._optimizer_step, self._accelerator.is_main_process
        if self.progress.best_step is not None and (is_main or step.is_sharded):
            self._checkpoints.load_best(self.progress.best_step)
        step.gather_weights(keep=is_main)

    @property
    def _end(self) -> int:
        return self._schedule.end(self.progress.decay_start)

    def _any_process_stopped(self, stop_requested: bool) -> bool:
        """Whether any process was asked to stop: all have to leave the loop after the same step."""
        if self._accelerator.num_processes == 1:
            return stop_requested
        if self._accelerator.device.type != "cpu" and self.progress.step % STEPS_PER_READ:
            return False
        flag = torch.tensor(float(stop_requested), device=self._accelerator.device)
        return float(self._accelerator.reduce(flag, "sum")) > 0

    # -- one step ------------------------------------------------------------------------------------------------------

    def begin_step(self) -> float:
        """The learning rate of the step that follows."""
        if self.progress.decay_start is None:
            self._maybe_begin_decay()
        return self._rate_of(self.progress.step)

    def _maybe_begin_decay(self) -> None:
        """Begin the decay if there is a reason to stop early, or if it could not end within the limit otherwise."""
        progress = self.progress
        is_early = progress.step >= self._optimisation.min_steps and self._stopping.is_due(
            progress.curve, progress.evals_without_improvement
        )
        if is_early or progress.step >= self._schedule.latest_decay_start:
            self._update(decay_start=progress.step, ended_by_limit=not is_early)
            why = REASONS[self._stopping.reason if is_early else "limit"]
            self._log.line(f"step {progress.step}: the decay begins; {why}")

    def _step(self, rate: float) -> None:
        tokens = self._batches.token_budget
        # In a pass of all processes the others wait for the one without room; all have to start again.
        least = tokens if self._optimizer_step.tries_together else self._batches.width
        halve_until_it_fits(
            lambda: self._try_step(rate), tokens=tokens, least=least, use=self._use_smaller_micro_batches
        )
        self.count_step()

    def count_step(self) -> None:
        """Count a step that is made. Raises `StageError` if its loss is not finite."""
        self.meter.end_step()
        self._update(step=self.progress.step + 1)
        if self.meter.is_due(self.progress.step):
            self._read_loss()

    def end_step(self, seconds: float) -> None:
        """Report, and validate if it is time, after a step that took so long."""
        self._update(seconds=self.progress.seconds + seconds)
        self._report()
        if self._is_eval_due():
            self._evaluate_and_checkpoint()

    def _try_step(self, rate: float) -> None:
        """One optimizer step. Raises `MicroBatchTooLarge`, and nothing has changed."""
        step = self.progress.step
        seed_step(self._optimisation.seed, step, self._accelerator.process_index)
        micro_batches = self._prefetcher.at(self._batches, step)
        self._optimizer_step.run(micro_batches, self._batches.present(step), rate=rate, meter=self.meter)

    def _rate_of(self, step: int) -> float:
        """The learning rate of the step after ``step`` others."""
        return self._optimisation.learning_rate * self._schedule.factor(step, self.progress.decay_start)

    def _read_loss(self) -> None:
        """Move losses and tokens of the steps since the last reading, of all processes, into the progress."""
        reading = self.meter.read(self.progress.step)
        if reading is None:
            return
        self._last_loss = reading.loss_sum / reading.steps
        first = self.progress.first_loss
        self._update(
            loss_sum=self.progress.loss_sum + reading.loss_sum,
            loss_steps=self.progress.loss_steps + reading.steps,
            first_loss=self._last_loss if first is None else first,
            tokens=self.progress.tokens + reading.tokens,
        )
        rate, speed = self._rate_of(self.progress.step - 1), self.progress.tokens_per_second
        self._tracking.log_training(self.progress.step, loss=self._last_loss, rate=rate, tokens_per_second=speed)

    # -- memory --------------------------------------------------------------------------------------------------------

    def _use_smaller_micro_batches(self, tokens: int) -> None:
        self._log.line(f"step {self.progress.step}: out of memory")
        self._set_micro_batch(replace(self.micro_batch, tokens=tokens))

    def _set_micro_batch(self, size: MicroBatchSize) -> None:
        self.micro_batch, self._batches = size, self._batches.with_budget(size.tokens)
        twice = ", and computes activations twice (gradient checkpointing)" if size.checkpointing else ""
        self._log.line(f"a micro-batch has at most {size.tokens:,} tokens{twice}")

    # -- validation ----------------------------------------------------------------------------------------------------

    def _is_eval_due(self) -> bool:
        """Every ``evalEvery`` steps, before a decay that the limit begins, and at the end.

        With a number of ``validations`` just these, and the end of a run that stops early.
        """
        step, number = self.progress.step, self._optimisation.validations
        if number is not None:
            return step == self._end or is_evenly_spaced(step, number, self._schedule.max_steps)
        before_decay = self.progress.decay_start is None and step == self._schedule.latest_decay_start
        return before_decay or step == self._end or step % self._optimisation.eval_every == 0

    def _evaluate_and_checkpoint(self) -> None:
        """Validate, keep the weights if they are the best, checkpoint."""
        self._read_loss()
        progress = self.progress
        points = {}
        if self._validate is not None:
            self._reporter.report("validating", step=progress.step, total=self._end, score=progress.score)
            points = self._validate()
        point = CurvePoint(
            step=progress.step,
            train_loss=progress.loss_sum / progress.loss_steps if progress.loss_steps else None,
            phase=self._schedule.phase(progress.step - 1, progress.decay_start),
            tasks=points,
        )
        self._update(curve=(*progress.curve, point), loss_sum=0.0, loss_steps=0)
        if points:
            self._select(points)
        is_best = self.progress.best_step == point.step
        self._log.point(point, end=self._end, tokens_per_second=self.progress.tokens_per_second, is_best=is_best)
        self._tracking.log_validation(progress.step, points)
        self._save()

    def _select(self, points: Mapping[str, TaskPoint]) -> None:
        progress = self.progress
        value, loss = self._selection.value(points), mean_loss(points)
        is_best = progress.best_step is None or is_better((value, loss), (progress.best_value, progress.best_loss))
        if is_best or (progress.step == self._end and self._selection.end_is_as_good(points, progress.best_value)):
            self._checkpoints.keep_best(progress.step)
            self._update(best_step=progress.step, best_value=value, best_loss=loss, evals_without_improvement=0)
        else:
            self._update(evals_without_improvement=progress.evals_without_improvement + 1)

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def resume(self) -> None:
        """Go on from the last checkpoint, if there is one."""
        progress = self._checkpoints.restore()
        if progress is not None:
            self.progress = progress
            self._log.line(f"resuming after step {self.progress.step}")

    def _save(self) -> None:
        self._read_loss()
        self._checkpoints.save(self.progress)

    def _update(self, **changes: object) -> None:
        self.progress = self.progress.model_copy(update=changes)

    # -- progress ------------------------------------------------------------------------------------------------------

    def _report(self) -> None:
        self._reporter.report(
            "training",
            step=self.progress.step,
            total=self._end,
            loss=self._last_loss,
            score=self.progress.score,
            tokens_per_second=self.progress.tokens_per_second,
        )
