"""The frame of every stage program: the result that is there, or the work and its artifact, or why there is none."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Protocol, TypeVar

from pydantic import ValidationError

from multitask_api.cluster import EXIT_DONE, EXIT_RETRYABLE, EXIT_USER_ERROR, TRAINING_KINDS
from multitask_api.errors import MultitaskError, RetryableError, UserError
from multitask_api.stage_io.manifest import Manifest, StageFailure, StageOrder
from multitask_api.types import Record
from multitask_trainer.data.places import Places
from multitask_trainer.errors import LostProcess, StageError, Unreported
from multitask_trainer.ranks import FAREWELL, Dismissed, Ranks
from multitask_trainer.reporter import FileReporter, Reporter
from multitask_trainer.space import full_place
from multitask_trainer.storage import (
    describe,
    fetch,
    find,
    local_path,
    publish,
    read_manifest,
    remove,
    unique,
    write_atomically,
)

P = TypeVar("P", bound=Record)
_STATUS = {"UserError": EXIT_USER_ERROR, "Retryable": EXIT_RETRYABLE, "Fault": 1}


@dataclass(frozen=True)
class Outcome:
    """What a stage found (``result``) and the digest of each of its named outputs."""

    result: Record
    outputs: Mapping[str, str]


@dataclass(frozen=True)
class Stage:
    """One run of one stage program."""

    order: StageOrder
    reporter: Reporter
    ranks: Ranks = field(default_factory=Ranks)
    _attempt: str = field(default_factory=unique)
    _fetched: dict[str, Path] = field(default_factory=dict)

    def parameters(self, kind: type[P]) -> P:
        """The order's parameters as the record ``kind``. Raises `StageError` if they are not one."""
        try:
            return kind.model_validate(self.order.parameters)
        except ValidationError as error:
            raise StageError(f"the order's parameters are no {kind.__name__} of this version: {error}") from error

    @property
    def work(self) -> Path:
        """A folder that survives a restart of the stage: checkpoints go here."""
        return Path(self.order.work)

    @property
    def scratch(self) -> Path:
        """A folder of this attempt alone: a pod that was cut off from the cluster may still be at the same order."""
        return self.work / "attempts" / self._attempt

    @property
    def folder(self) -> Path:
        """The artifact's files are written here; the frame publishes them."""
        return self.scratch / "artifact"

    def input(self, stage: str) -> Path:
        """The local folder of the artifact of ``stage``, one of the order's inputs, checked against its manifest."""
        if stage not in self._fetched:
            self._fetched[stage] = fetch(self.order.inputs[stage], self.work / "inputs")
        return self._fetched[stage]

    def manifest_of(self, stage: str) -> Manifest:
        """The manifest of an input."""
        manifest = read_manifest(self.order.inputs[stage])
        if manifest is None:
            raise StageError(f"{self.order.inputs[stage]} has no manifest: {stage} has to run first")
        return manifest

    def inputs_of(self, prefix: str) -> list[str]:
        """The names of the inputs that begin with ``prefix``, sorted."""
        return sorted(name for name in self.order.inputs if name.startswith(prefix))

    def once(self, what: str, make: Callable[[], None]) -> None:
        """Have something made in ``work`` by one process for all that share the folder."""
        self.ranks.once(what, make, on_each_node=self.order.checkpoint is not None)  # else the folder outlives the pod


class Results(Protocol):
    """Where a stage says how it ended."""

    def done(self, manifest: Manifest) -> None:
        """The artifact is in storage. Raises RetryableError if nobody can be told."""

    def failed(self, failure: StageFailure, digest: str) -> None:
        """There is none, and why; does not raise."""


def run(work: Callable[[Stage], Outcome], argv: Sequence[str] | None = None) -> int:
    """Run a stage program to its manifest; the exit status says whether trying again can help."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--order", type=Path, required=True, help="the StageOrder file")
    order = StageOrder.model_validate_json(parser.parse_args(argv).order.read_text("utf-8"))
    ranks = Ranks.of(os.environ)
    progress = Path(order.progress) if order.progress and ranks.leads else None
    results = _FailureFile(Path(order.work) / "failure.json")
    if ranks.leads:
        results.path.unlink(missing_ok=True)
    return carry_out(work, Stage(order, FileReporter(order.stage, progress), ranks), results)


@dataclass(frozen=True)
class _FailureFile:
    """A file in the work folder says why there is no artifact; of one that is there, its manifest tells."""

    path: Path

    def done(self, manifest: Manifest) -> None:
        """See Results.done."""

    def failed(self, failure: StageFailure, digest: str) -> None:
        """See Results.failed."""
        del digest
        try:
            write_atomically(self.path, failure.model_dump_json(by_alias=True))
        except OSError as error:
            sys.stderr.write(f"{self.path} cannot be written: {error}\n")


def carry_out(work: Callable[[Stage], Outcome], stage: Stage, results: Results) -> int:
    """Carry out one order; the exit status of the process, the same in all of its launch.

    A result that is there already is the result. Otherwise the processes ``work`` together, and the first one publishes
    what comes of it and says so.
    """
    if not stage.ranks.leads:
        return _help(work, stage, stage.ranks)
    status = _lead(work, stage, stage.ranks, results)
    stage.ranks.end(status)
    return status


def _lead(work: Callable[[Stage], Outcome], stage: Stage, ranks: Ranks, results: Results) -> int:
    try:
        manifest = find(stage.order.output)
        ranks.say("begin", "with the result" if manifest else "with the work")
        results.done(manifest or _make(work, stage))
    except Unreported as error:
        sys.stderr.write(f"{stage.order.stage}: {error}\n")
        return EXIT_RETRYABLE
    except Exception as error:  # noqa: BLE001 - the frame is the last place that can say which stage failed, and why
        failure = _failure(stage, error, ranks)
        if _was_overtaken(stage, results):
            return EXIT_DONE
        results.failed(failure, stage.order.digest)
        sys.stderr.write(f"{stage.order.stage}: {failure.message}\n")
        return _STATUS[failure.kind]
    _clean(stage)
    return EXIT_DONE


def _help(work: Callable[[Stage], Outcome], stage: Stage, ranks: Ranks) -> int:
    """Work along with the first process, and end as it does."""
    try:
        begin = ranks.wait("begin", "ended")
        if begin == "with the work" and stage.order.kind in TRAINING_KINDS:
            work(stage)
    except Dismissed:
        pass
    except Exception as error:  # noqa: BLE001 - the frame is the last place that can say why
        failure = _failure(stage, error, ranks)
        sys.stderr.write(f"{stage.order.stage}: process {ranks.rank}: {failure.message}\n")
        try:
            ranks.fail(failure.model_dump_json(by_alias=True))
            status = ranks.ended(FAREWELL)
        except LostProcess:
            status = None
        return _STATUS[failure.kind] if status is None else status
    try:
        return ranks.ended() or EXIT_DONE
    except LostProcess as error:
        sys.stderr.write(f"{stage.order.stage}: process {ranks.rank}: {error}\n")
        return EXIT_RETRYABLE


def _make(work: Callable[[Stage], Outcome], stage: Stage) -> Manifest:
    _remove_dead_attempts(stage.scratch.parent)
    stage.folder.mkdir(parents=True)
    begun = time.monotonic()
    outcome = work(stage)
    manifest = _manifest(stage.order, outcome, stage.folder, time.monotonic() - begun)
    return publish(stage.folder, stage.order.output, manifest)


def _manifest(order: StageOrder, outcome: Outcome, folder: Path, seconds: float) -> Manifest:
    libraries = ("torch", "transformers", "peft", "tokenizers", "numpy")
    return Manifest(
        model=order.model,
        stage=order.stage,
        kind=order.kind,
        digest=order.digest,
        version=order.version,
        read_outputs=order.read_outputs,
        outputs=dict(outcome.outputs),
        files=describe(folder),
        result=outcome.result.to_json(),
        seconds=round(seconds, 3),
        environment={name: version(name) for name in libraries}
        | {
            "python": platform.python_version(),
            "host": platform.node(),
            "cpus": str(os.cpu_count()),
            "threads": str(order.threads),
            "device": order.device,
        },
    )


def _failure(stage: Stage, error: Exception, ranks: Ranks) -> StageFailure:
    """``error`` in the words of who can change something; prints where it came from if that is nobody but us."""
    told = ranks.failures() if ranks.leads and not isinstance(error, MultitaskError) else []
    if told:  # this process only noticed that another one is gone
        return StageFailure.model_validate_json(told[0])
    kind, message = "Fault", f"{type(error).__name__}: {error}"
    if isinstance(error, UserError):
        kind, message = "UserError", str(error)
    elif (full := full_place(error, _written(stage.order), _mounts())) is not None:
        kind, message = "Retryable", full
    elif ranks.lost(error):
        kind, message = "Retryable", f"another process of this stage ended, or cannot be reached: {error}"
    elif isinstance(error, RetryableError | ConnectionError | TimeoutError):
        kind, message = "Retryable", str(error)
    else:
        traceback.print_exception(error)
    return StageFailure.model_validate({"stage": stage.order.stage, "kind": kind, "message": message})


def _was_overtaken(stage: Stage, results: Results) -> bool:
    """Whether the result is there after all: another pod with the same order was quicker, and cleaned up behind it."""
    try:
        manifest = find(stage.order.output)
        if manifest is not None:
            results.done(manifest)
    except (MultitaskError, OSError):
        return False
    return manifest is not None


def _clean(stage: Stage) -> None:
    """Checkpoints are of no use once the manifest stands. What cannot be removed is only in the way of nobody."""
    shutil.rmtree(stage.work, ignore_errors=True)
    if stage.order.checkpoint is not None:
        remove(stage.order.checkpoint)


def _remove_dead_attempts(folder: Path) -> None:
    """Remove the half-written artifacts of processes of this machine that are gone."""
    for attempt in folder.glob("*.*.*"):
        host, process, _ = attempt.name.rsplit(".", 2)
        if host == platform.node() and (process == str(os.getpid()) or not Path("/proc", process).exists()):
            shutil.rmtree(attempt, ignore_errors=True)


def _written(order: StageOrder) -> list[Path]:
    """The folders that a stage writes to."""
    output = local_path(order.output)
    return [Path(order.work)] if output is None else [output, Path(order.work)]


def _mounts() -> Mapping[str, Path]:
    return Places.of(".", os.environ).mounts
