"""Progress leaves a stage through here: into a file, or, in a cluster, into the stage's own ConfigMap."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypedDict, Unpack

from multitask_api.stage_io.manifest import StageProgress
from multitask_trainer.storage import write_atomically


class Position(TypedDict, total=False):
    """How far a phase is; the names and meanings are those of ``StageProgress``."""

    step: int
    total: int
    loss: float | None
    score: float | None
    tokens_per_second: float | None


class Reporter(Protocol):
    """Where a running stage says how far it is."""

    def report(self, phase: str, **position: Unpack[Position]) -> None:
        """Say where the stage is; may be called every step."""


@dataclass
class Pace:
    """How often something may be said: every ``seconds``, and sooner when the phase changes."""

    seconds: float
    at_change: float = 0.0
    _last: float = field(default=float("-inf"))
    _phase: str = ""

    def is_due(self, phase: str, now: float) -> bool:
        """Whether to say something now; if so, the next time counts from here."""
        wait = self.seconds if phase == self._phase else self.at_change
        if now - self._last < wait:
            return False
        self._last, self._phase = now, phase
        return True

    def pause(self, seconds: float) -> None:
        """Say nothing for some time longer."""
        self._last += seconds


class FileReporter:
    """Replaces one small file, at most once a second and at every change of phase; without a path, nothing."""

    def __init__(self, stage: str, path: Path | None, clock: Callable[[], float] = time.time) -> None:
        self._stage = stage
        self._path = path
        self._clock = clock
        self._pace = Pace(1.0)

    def report(self, phase: str, **position: Unpack[Position]) -> None:
        """See Reporter.report."""
        now = self._clock()
        if self._path is not None and self._pace.is_due(phase, now):
            progress = StageProgress(stage=self._stage, phase=phase, updated=now, **position)
            write_atomically(self._path, progress.model_dump_json(by_alias=True, exclude_none=True))
