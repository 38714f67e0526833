"""The training loop: steps, validations, the beginning of the tail, checkpoints; resumes where it was killed."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from multitask_api.stage_io.parameters import Optimisation
from multitask_api.stage_io.results import CurvePoint, TaskPoint
from multitask_trainer.errors import ArtifactError, Interrupted, StageError
from multitask_trainer.reporter import Reporter
from multitask_trainer.training.batches import MicroBatch
from multitask_trainer.training.checkpoint import CheckpointStore, Progress
from multitask_trainer.training.compute import seed_step, termination
from multitask_trainer.training.loss import RowMeanLoss
from multitask_trainer.training.schedule import Schedule
from multitask_trainer.training.selection import Selection, is_better, mean_loss

if TYPE_CHECKING:
    from accelerate import Accelerator

_MAX_NORM = 1.0
_STEPS_PER_LOOK = 10
"""On a GPU the loss is read this often: reading it waits for the device."""

Validate = Callable[[], dict[str, TaskPoint]]


class Batches(Protocol):
    """The rows of every step, laid out for this process."""

    def at(self, step: int) -> Sequence[MicroBatch]:
        """The micro-batches of ``step``, counted from 0."""


@dataclass(frozen=True)
class Settings:
    """How a run trains."""

    max_steps: int
    optimisation: Optimisation
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    """Of matrices; norms and biases have none."""


class Loop:
    """One run over ``model``, whose parameters that require gradients are trained; by one process or several.

    Without ``validate`` (pre-training) the last weights are the result; with it, the best by ``selection``.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Batches,
        settings: Settings,
        *,
        accelerator: Accelerator,
        store: CheckpointStore,
        reporter: Reporter,
        validate: Validate | None = None,
        selection: Selection | None = None,
    ) -> None:
        self._model = model
        self._loss = accelerator.prepare(RowMeanLoss(model))
        self._parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
        self._optimizer = _adamw(self._parameters.values(), settings)
        self._batches = batches
        self._settings = settings
        self._schedule = Schedule(settings.optimisation.warmup_steps, settings.max_steps)
        self._accelerator = accelerator
        self._store = store
        self._reporter = reporter
        self._validate = validate
        self._selection = selection or Selection({})
        self._unread = torch.zeros((), device=accelerator.device)
        self._unread_steps = 0
        self._unread_tokens = 0
        self._last_loss: float | None = None
        self.progress = Progress()

    def run(self) -> Progress:
        """Train to the end; the first process's model has the chosen weights then. Raises `Interrupted` on SIGTERM."""
        self._resume()
        model: Any = self._loss
        model.train()
        with termination() as told_to_stop:
            while self.progress.step < self._end:
                if self._agree(told_to_stop()):
                    self._save()
                    raise Interrupted(f"stopped after step {self.progress.step}; running the stage again goes on there")
                self._begin_tail()
                self._step()
                if self._is_due():
                    self._look()
        if self.progress.best_step is not None and self._accelerator.is_main_process:
            self._set(self._store.load_best(self.progress.best_step))
        return self.progress

    def _agree(self, told: bool) -> bool:
        """Whether any process was told to stop: all have to leave the loop after the same step."""
        if self._accelerator.num_processes == 1:
            return told
        if self._accelerator.device.type != "cpu" and self.progress.step % _STEPS_PER_LOOK:
            return False
        flag = torch.tensor(float(told), device=self._accelerator.device)
        return float(self._accelerator.reduce(flag, "sum")) > 0

    @property
    def _end(self) -> int:
        return self._schedule.end(self.progress.tail_begin)

    def _begin_tail(self) -> None:
        """Begin the decay tail if patience is at its end, or if it could not end within the limit otherwise."""
        progress, optimisation = self.progress, self._settings.optimisation
        if progress.tail_begin is not None:
            return
        at_limit = progress.step >= self._schedule.latest_tail
        patient = progress.stale < optimisation.patience or progress.step < optimisation.min_steps
        if at_limit or not patient:
            self._update(tail_begin=progress.step, ended_by_limit=at_limit and patient)

    def _step(self) -> None:
        progress = self.progress
        begun = time.monotonic()
        seed_step(self._settings.optimisation.seed, progress.step, self._accelerator.process_index)
        rate = self._settings.optimisation.learning_rate * self._schedule.factor(progress.step, progress.tail_begin)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        micro_batches = self._batches.at(progress.step)
        for number, micro_batch in enumerate(micro_batches, start=1):
            with self._synchronised(number == len(micro_batches)):
                loss = self._loss(micro_batch.to(self._accelerator.device))
                # DistributedDataParallel averages gradients over processes; the weights already hold the whole mean.
                self._accelerator.backward(loss * self._accelerator.num_processes)
            self._unread += loss.detach()
        torch.nn.utils.clip_grad_norm_(self._parameters.values(), _MAX_NORM)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._unread_steps += 1
        self._unread_tokens += sum(micro_batch.tokens for micro_batch in micro_batches)
        self._update(step=progress.step + 1)
        if self._accelerator.device.type == "cpu" or self.progress.step % _STEPS_PER_LOOK == 0:
            self._read_loss()
        self._update(seconds=self.progress.seconds + time.monotonic() - begun)
        self._report()

    def _synchronised(self, last: bool) -> AbstractContextManager[Any]:
        if last or self._accelerator.num_processes == 1:
            return nullcontext()
        later: AbstractContextManager[Any] = self._accelerator.no_sync(self._loss)
        return later

    def _read_loss(self) -> None:
        """Move losses and tokens of the steps since the last reading, of all processes, into the progress."""
        if not self._unread_steps:
            return
        total = float(self._accelerator.reduce(self._unread, "sum"))
        if not math.isfinite(total):
            raise StageError(
                f"the training loss is {total} at step {self.progress.step}; lower training.learningRate or raise "
                "training.warmupSteps"
            )
        tokens = self._unread_tokens
        if self._accelerator.num_processes > 1:
            tokens = int(self._accelerator.reduce(torch.tensor(tokens, device=self._accelerator.device), "sum"))
        self._last_loss = total / self._unread_steps
        first = self.progress.first_loss
        self._update(
            loss_sum=self.progress.loss_sum + total,
            loss_steps=self.progress.loss_steps + self._unread_steps,
            first_loss=self._last_loss if first is None else first,
            tokens=self.progress.tokens + tokens,
        )
        self._unread.zero_()
        self._unread_steps = self._unread_tokens = 0

    def _is_due(self) -> bool:
        """Every ``evalEvery`` steps, before a tail that the limit begins, and at the end."""
        step = self.progress.step
        before_tail = self.progress.tail_begin is None and step == self._schedule.latest_tail
        return before_tail or step == self._end or step % self._settings.optimisation.eval_every == 0

    def _look(self) -> None:
        """Validate, keep the weights if they are the best, checkpoint."""
        self._read_loss()
        progress = self.progress
        points = self._validated()
        point = CurvePoint(
            step=progress.step,
            train_loss=progress.loss_sum / progress.loss_steps if progress.loss_steps else None,
            phase=self._schedule.phase(progress.step - 1, progress.tail_begin),
            tasks=points,
        )
        self._update(curve=(*progress.curve, point), loss_sum=0.0, loss_steps=0)
        if points:
            self._select(points)
        self._log(point)
        self._save()

    def _validated(self) -> dict[str, TaskPoint]:
        """The first process validates for all."""
        found: list[Any] = [None]
        if self._validate is not None and self._accelerator.is_main_process:
            self._reporter.report("validating", step=self.progress.step, total=self._end, score=self._score)
            found = [self._validate()]
        if self._accelerator.num_processes > 1:
            from accelerate.utils import broadcast_object_list

            broadcast_object_list(found)
        points: dict[str, TaskPoint] = found[0] or {}
        return points

    def _select(self, points: Mapping[str, TaskPoint]) -> None:
        progress = self.progress
        value, loss = self._selection.value(points), mean_loss(points)
        if progress.best_step is None or is_better((value, loss), (progress.best_value, progress.best_loss)):
            if self._accelerator.is_main_process:
                self._store.save_best(progress.step, self._trained())
            self._update(best_step=progress.step, best_value=value, best_loss=loss, stale=0)
        else:
            self._update(stale=progress.stale + 1)

    def _resume(self) -> None:
        found = self._store.load()
        self._refuse_unless_equal(found[0].step if found else 0)
        if found is None:
            return
        self.progress, weights, optimizer = found
        self._set(weights)
        self._optimizer.load_state_dict(optimizer)
        self._write(f"going on after step {self.progress.step}")

    def _refuse_unless_equal(self, step: int) -> None:
        """All processes have to go on from the same step, wherever each has found its checkpoint."""
        if self._accelerator.num_processes == 1:
            return
        steps = self._accelerator.gather(torch.tensor([step], device=self._accelerator.device)).tolist()
        if len(set(steps)) > 1:
            raise ArtifactError(
                f"the processes found checkpoints of different steps ({steps}); they have to start again"
            )

    def _save(self) -> None:
        self._read_loss()
        if self._accelerator.is_main_process:
            self._store.save(self.progress, self._trained(), self._optimizer.state_dict())
        self._accelerator.wait_for_everyone()

    def _trained(self) -> dict[str, Tensor]:
        return {name: value.detach() for name, value in self._parameters.items()}

    def _set(self, weights: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, value in self._parameters.items():
                value.copy_(weights[name])

    def _update(self, **changes: object) -> None:
        self.progress = self.progress.model_copy(update=changes)

    @property
    def _score(self) -> float | None:
        return self.progress.best_value if self.progress.best_step is not None else None

    @property
    def _tokens_per_second(self) -> float | None:
        return self.progress.tokens / self.progress.seconds if self.progress.seconds else None

    def _report(self) -> None:
        self._reporter.report(
            "training",
            step=self.progress.step,
            total=self._end,
            loss=self._last_loss,
            score=self._score,
            tokens_per_second=self._tokens_per_second,
        )

    def _log(self, point: CurvePoint) -> None:
        loss = f"loss {point.train_loss:.4f}" if point.train_loss is not None else ""
        tasks = "  ".join(f"{name} {found.score:.4f} ({found.loss:.4f})" for name, found in point.tasks.items())
        speed = f"{self._tokens_per_second or 0:,.0f} tokens/s"
        best = "  best so far" if self.progress.best_step == point.step else ""
        self._write(f"step {point.step}/{self._end} {point.phase}  {loss}  {speed}  {tasks}{best}")

    def _write(self, line: str) -> None:
        if self._accelerator.is_main_process:
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()


def _adamw(parameters: Any, settings: Settings) -> torch.optim.AdamW:
    every = list(parameters)
    groups = [
        {"params": [value for value in every if value.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [value for value in every if value.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=settings.optimisation.learning_rate,
        betas=settings.betas,
        fused=True,
    )
