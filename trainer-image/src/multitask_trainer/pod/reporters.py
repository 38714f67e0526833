"""How a stage pod reports to the operator: progress, manifests and failures as keys of its ConfigMap."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Unpack

from multitask_api.cluster import FAILURE_KEY, OTHER_FAILURES, PROGRESS_KEY
from multitask_api.stage_io.manifest import Manifest, StageFailure, StagePosition, StageProgress
from multitask_api.stage_io.packing import manifest_key, pack_manifest
from multitask_api.types import JsonDict
from multitask_trainer.errors import Unreported
from multitask_trainer.pod.configmap import ConfigMap
from multitask_trainer.runtime.progress import Position, ProgressReporter, RateLimit

FAILURE_TIMEOUT = 60.0
"""Seconds for which writing a failure is tried again: the pod's exit status tells the operator that there is one."""
_PROGRESS_BACKOFF = 60.0
"""Seconds without another try after progress could not be written: it must not hold up training."""
_MAX_MESSAGE = 16_000
"""Characters of a failure's message."""


class ConfigMapProgressReporter:
    """Writes progress every 15 seconds at most, or 2 when the phase changes; what cannot be written is dropped."""

    def __init__(self, stage: str, configmap: ConfigMap, clock: Callable[[], float] = time.time) -> None:
        self._stage = stage
        self._configmap = configmap
        self._clock = clock
        self._rate_limit = RateLimit(15.0, seconds_at_phase_change=2.0)
        self._newest: tuple[str, Position] = ("starting", {})
        self._writing = threading.Lock()

    def report(self, phase: str, **position: Unpack[Position]) -> None:
        """See ProgressReporter.report."""
        self._newest = (phase, position)
        self.repeat()

    def repeat(self) -> None:
        """Report again what was reported last: the stage is still there. From any thread."""
        if self._writing.acquire(blocking=False):  # else the other thread reports, and the stage does not wait for it
            try:
                self._write(*self._newest)
            finally:
                self._writing.release()

    def _write(self, phase: str, position: Position) -> None:
        now = self._clock()
        if self._rate_limit.is_due(phase, now):
            self._patch(StageProgress(stage=self._stage, phase=phase, updated=now, **position))

    def _patch(self, progress: StageProgress) -> None:
        text = progress.model_dump_json(by_alias=True, exclude_none=True)
        try:
            self._configmap.patch({"data": {PROGRESS_KEY: text}}, timeout=0.0)
        except Unreported as error:
            sys.stderr.write(f"{self._stage}: progress was not reported: {error}\n")
            self._rate_limit.pause(_PROGRESS_BACKOFF)


class JointProgressReporter(ConfigMapProgressReporter):
    """One report for stages that train together: that of the stage with most steps left, and beside it the others'."""

    def __init__(self, configmap: ConfigMap, clock: Callable[[], float] = time.time) -> None:
        super().__init__("", configmap, clock)
        self._stages: dict[str, StagePosition] = {}

    def of_stage(self, stage: str) -> ProgressReporter:
        """What one of the stages reports to."""
        return _PartOf(self, stage)

    def update(self, position: StagePosition) -> None:
        """Take in what one stage reports."""
        self._stages[position.stage] = position
        self.repeat()

    def ended(self, stage: str) -> None:
        """Leave a stage out from here on."""
        self._stages.pop(stage, None)

    def _write(self, phase: str, position: Position) -> None:
        del phase, position
        now, stages = self._clock(), list(self._stages.values())  # a thread repeats the report while stages end
        if not stages or not self._rate_limit.is_due("together", now):
            return
        first, *others = sorted(stages, key=lambda each: each.step - each.total)
        self._patch(StageProgress(**dict(first), updated=now, together=tuple(others) or None))


@dataclass(frozen=True)
class _PartOf:
    """See `JointProgressReporter.of_stage`."""

    whole: JointProgressReporter
    stage: str

    def report(self, phase: str, **position: Unpack[Position]) -> None:
        """See ProgressReporter.report."""
        self.whole.update(StagePosition(stage=self.stage, phase=phase, **position))


@dataclass
class ConfigMapResultReporter:
    """How the orders of a pod end. One key has all failures: the first, with the messages of all, and the others."""

    configmap: ConfigMap
    _failures: list[tuple[StageFailure, str]] = field(default_factory=list)

    def begin(self) -> None:
        """Remove the failure and the progress of the attempt before this one. Raises `Unreported`."""
        self.configmap.patch({"data": {FAILURE_KEY: None, PROGRESS_KEY: None}})

    def succeeded(self, manifest: Manifest) -> None:
        """See ResultReporter.succeeded."""
        try:
            packed = pack_manifest(manifest)
        except ValueError as error:
            raise Unreported(str(error)) from error
        self.configmap.patch({"binaryData": {manifest_key(manifest.digest): packed}})

    def failed(self, failure: StageFailure, digest: str) -> None:
        """See ResultReporter.failed."""
        self._failures.append((failure, digest))
        text = json.dumps(_failure_document(self._failures), ensure_ascii=False)
        try:
            self.configmap.patch({"data": {FAILURE_KEY: text}}, FAILURE_TIMEOUT)
        except Unreported as error:
            sys.stderr.write(f"{failure.stage}: the failure was not reported: {error}\n")


def _failure_document(failures: Sequence[tuple[StageFailure, str]]) -> JsonDict:
    """The value of `FAILURE_KEY` for failures and the digests of their stages, in the order in which they came."""
    (first, digest), *others = failures
    message = "\n".join([first.message, *(f"{failure.stage}: {failure.message}" for failure, _ in others)])
    document = _to_json(first, digest, message, _MAX_MESSAGE)
    if others:
        limit = _MAX_MESSAGE // len(others)
        document[OTHER_FAILURES] = [_to_json(each, digest, each.message, limit) for each, digest in others]
    return document


def _to_json(failure: StageFailure, digest: str, message: str, limit: int) -> JsonDict:
    """``limit``: the most characters of ``message``."""
    if len(message) > limit:
        message = f"{message[:limit]} … (the rest is in the pod's log)"
    return failure.model_copy(update={"message": message}).to_json() | {"digest": digest}
