"""Progress leaves a stage through here: a file locally; a ConfigMap in a cluster will be another Reporter."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from multitask_api.manifest import StageProgress
from multitask_trainer.storage import write_atomically


class Reporter(Protocol):
    """Where a running stage says how far it is."""

    def report(
        self,
        phase: str,
        *,
        step: int = 0,
        total: int = 0,
        loss: float | None = None,
        score: float | None = None,
        tokens_per_second: float | None = None,
    ) -> None:
        """Say where the stage is; may be called every step."""


class FileReporter:
    """Replaces one small file, at most once a second and at every change of phase."""

    def __init__(self, stage: str, path: Path | None, clock: Callable[[], float] = time.time) -> None:
        self._stage = stage
        self._path = path
        self._clock = clock
        self._last = (0.0, "")

    def report(
        self,
        phase: str,
        *,
        step: int = 0,
        total: int = 0,
        loss: float | None = None,
        score: float | None = None,
        tokens_per_second: float | None = None,
    ) -> None:
        """See Reporter.report."""
        now = self._clock()
        if self._path is None or (phase == self._last[1] and now - self._last[0] < 1.0):
            return
        self._last = (now, phase)
        progress = StageProgress(
            stage=self._stage,
            phase=phase,
            step=step,
            total=total,
            loss=loss,
            score=score,
            tokens_per_second=tokens_per_second,
            updated=now,
        )
        write_atomically(self._path, progress.model_dump_json(by_alias=True, exclude_none=True))
