"""How a running stage reports its progress: into a file, or in a pod into the Job's ConfigMap (see ``pod``).

A training also writes lines into the log of its process.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypedDict, Unpack

from multitask_api.stage_io.manifest import StageProgress
from multitask_api.stage_io.results import CurvePoint
from multitask_trainer.storage.files import write_atomically


class Position(TypedDict, total=False):
    """How far a phase is; the names and meanings are those of ``StageProgress``."""

    step: int
    total: int
    loss: float | None
    score: float | None
    tokens_per_second: float | None


class ProgressReporter(Protocol):
    """Where a running stage reports its progress."""

    def report(self, phase: str, **position: Unpack[Position]) -> None:
        """Report the phase and the position in it; may be called every step."""


@dataclass
class RateLimit:
    """At most one report every ``seconds``, or every ``seconds_at_phase_change`` when the phase is another one."""

    seconds: float
    seconds_at_phase_change: float = 0.0
    _last: float = field(default=float("-inf"))
    _phase: str = ""

    def is_due(self, phase: str, now: float) -> bool:
        """Whether to report now; if so, the next interval begins at ``now``."""
        wait = self.seconds if phase == self._phase else self.seconds_at_phase_change
        if now - self._last < wait:
            return False
        self._last, self._phase = now, phase
        return True

    def pause(self, seconds: float) -> None:
        """Make the current interval longer by ``seconds``."""
        self._last += seconds


class FileProgressReporter:
    """Replaces one small file, at most once a second and at every change of phase; does nothing without a path."""

    def __init__(self, stage: str, path: Path | None, clock: Callable[[], float] = time.time) -> None:
        self._stage = stage
        self._path = path
        self._clock = clock
        self._rate_limit = RateLimit(1.0)

    def report(self, phase: str, **position: Unpack[Position]) -> None:
        """See ProgressReporter.report."""
        now = self._clock()
        if self._path is not None and self._rate_limit.is_due(phase, now):
            progress = StageProgress(stage=self._stage, phase=phase, updated=now, **position)
            write_atomically(self._path, progress.model_dump_json(by_alias=True, exclude_none=True))


@dataclass(frozen=True)
class TrainingLog:
    """Lines on standard output, with the ``name`` of the run before each if there is one."""

    name: str = ""
    is_written: bool = True

    def line(self, text: str) -> None:
        """Write one line."""
        if self.is_written:
            sys.stdout.write(f"{self.name}: {text}\n" if self.name else f"{text}\n")
            sys.stdout.flush()

    def point(self, point: CurvePoint, *, end: int, tokens_per_second: float | None, is_best: bool) -> None:
        """Write what a validation has found; ``end``: the steps of the run."""
        loss = f"loss {point.train_loss:.4f}" if point.train_loss is not None else ""
        tasks = "  ".join(f"{name} {task.score:.4f} ({task.loss:.4f})" for name, task in point.tasks.items())
        speed = f"{tokens_per_second or 0:,.0f} tokens/s"
        best = "  best so far" if is_best else ""
        self.line(f"step {point.step}/{end} {point.phase}  {loss}  {speed}  {tasks}{best}")
