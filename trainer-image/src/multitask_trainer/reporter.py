"""Progress leaves a stage through here: a file locally; a ConfigMap in a cluster will be another Reporter."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypedDict, Unpack

from multitask_api.manifest import StageProgress
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


class FileReporter:
    """Replaces one small file, at most once a second and at every change of phase."""

    def __init__(self, stage: str, path: Path | None, clock: Callable[[], float] = time.time) -> None:
        self._stage = stage
        self._path = path
        self._clock = clock
        self._last = (0.0, "")

    def report(self, phase: str, **position: Unpack[Position]) -> None:
        """See Reporter.report."""
        now = self._clock()
        if self._path is None or (phase == self._last[1] and now - self._last[0] < 1.0):
            return
        self._last = (now, phase)
        progress = StageProgress(stage=self._stage, phase=phase, updated=now, **position)
        write_atomically(self._path, progress.model_dump_json(by_alias=True, exclude_none=True))
