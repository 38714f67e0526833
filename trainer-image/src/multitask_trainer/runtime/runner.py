"""Runs one stage: from its order to the manifest in storage, or to the failure that says why there is none.

`main` is the program of every stage; a pod calls `run_stage` for each of its orders, or `run_together`. With several
processes the main process decides and publishes, and the others only work along::

    order → result in storage already? ─ yes ─────────────────────→ report it → remove work files → exit 0
                        └ no → work (all processes) → publish ────↗
                                         └ error → classify → report the failure → exit 2 · 75 · 1
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

from multitask_api.cluster import EXIT_DONE, EXIT_RETRYABLE, SHARED_KINDS
from multitask_api.errors import MultitaskError
from multitask_api.stage_io.manifest import Manifest, StageFailure, StageOrder
from multitask_api.stages.warm_start import FINISHED
from multitask_trainer.errors import ArtifactError, Interrupted, LostProcess, Unreported
from multitask_trainer.runtime.context import ACCELERATOR, StageContext, StageOutcome
from multitask_trainer.runtime.distributed import SHUTDOWN_TIMEOUT, DistributedContext, WorkerExit
from multitask_trainer.runtime.failures import EXIT_STATUS, failure_of_stage
from multitask_trainer.runtime.progress import FileProgressReporter
from multitask_trainer.storage.artifacts import find_result, publish
from multitask_trainer.storage.files import file_entries, write_atomically
from multitask_trainer.storage.uris import remove_tree

Work = Callable[[StageContext], StageOutcome]
"""What a stage program does: it writes files into ``artifact_folder`` and gives its result."""
JointWork = Callable[[Sequence[StageContext]], Iterator[tuple[StageContext, Work]]]
"""What it does for several orders at once: it gives each when nothing but the rest of its own work is left."""
_LIBRARIES = ("torch", "transformers", "peft", "tokenizers", "numpy")


class ResultReporter(Protocol):
    """Where a stage reports how it ended."""

    def succeeded(self, manifest: Manifest) -> None:
        """The artifact is in storage. Raises RetryableError if that cannot be reported."""

    def failed(self, failure: StageFailure, digest: str) -> None:
        """There is no artifact, and why; does not raise."""


def main(work: Work, argv: Sequence[str] | None = None, *, work_together: JointWork | None = None) -> int:
    """Run a stage program; the exit status tells whether trying again can help.

    A stage that can be done together with others of its kind has ``work_together``, for several orders.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--order", type=Path, action="append", required=True, help="the StageOrder file")
    files = parser.parse_args(argv).order
    if len(files) > 1 and work_together is None:
        parser.error("stages of this kind are done one by one: give one --order")
    orders = [StageOrder.model_validate_json(file.read_text("utf-8")) for file in files]
    distributed = DistributedContext.of(os.environ)
    runs = [_run_of(order, distributed) for order in orders]
    if len(runs) == 1 or work_together is None:
        return run_stage(work, *runs[0])
    return run_together(work_together, runs)


def _run_of(order: StageOrder, distributed: DistributedContext) -> tuple[StageContext, ResultReporter]:
    progress = Path(order.progress) if order.progress and distributed.is_main_process else None
    results = _FailureFile(Path(order.work) / "failure.json")
    if distributed.is_main_process:
        results.path.unlink(missing_ok=True)
    return StageContext(order, FileProgressReporter(order.stage, progress), distributed), results


def run_together(work: JointWork, runs: Sequence[tuple[StageContext, ResultReporter]]) -> int:
    """Run several orders in one process; each is published or reported as it ends, and none waits for the others.

    The exit status is that of the first order that failed, but one that says that trying again helps comes first.
    """
    statuses = []
    first, _ = runs[0]
    runs = [(context.sharing_inputs(first), results) for context, results in runs]
    open_runs = dict(enumerate(runs))
    for number, (context, results) in enumerate(runs):
        if not _has_work(context.order):
            statuses.append(run_stage(_no_work, context, results))
            del open_runs[number]
    try:
        contexts = [context for context, _ in open_runs.values()]
        for context, rest in work(contexts) if contexts else ():
            number = next(number for number, (each, _) in open_runs.items() if each is context)
            _, results = open_runs.pop(number)
            interrupted: list[Interrupted] = []
            statuses.append(run_stage(partial(_noting_interruption, rest, interrupted), context, results))
            if interrupted:  # whoever stops one order stops the process: no other may begin
                raise interrupted[0]
    except (Exception, Interrupted) as error:  # noqa: BLE001 - it ends all that are left, each with its own report
        fail = partial(_fail, error)
        statuses += [run_stage(fail, context, results) for context, results in open_runs.values()]
    if EXIT_RETRYABLE in statuses:
        return EXIT_RETRYABLE
    return next((status for status in statuses if status != EXIT_DONE), EXIT_DONE)


def _noting_interruption(work: Work, interrupted: list[Interrupted], context: StageContext) -> StageOutcome:
    try:
        return work(context)
    except Interrupted as error:
        interrupted.append(error)
        raise


def _has_work(order: StageOrder) -> bool:
    """Whether there is no result yet; not if that cannot be told: `run_stage` then reports why."""
    try:
        return find_result(order.output) is None
    except (MultitaskError, OSError):
        return False


def _no_work(context: StageContext) -> StageOutcome:
    raise ArtifactError(f"the result of {context.order.stage} was there and is gone; run the stage again")


def _fail(error: Exception | Interrupted, context: StageContext) -> StageOutcome:
    del context
    raise error


def run_stage(work: Work, context: StageContext, results: ResultReporter) -> int:
    """Run one order; the exit status, the same in all processes of the launch.

    A result that is in storage already is reported and kept. Otherwise the processes do the ``work`` together, and the
    main process publishes and reports what comes of it.
    """
    if not context.distributed.is_main_process:
        return _run_worker(work, context)
    status = _run_main_process(work, context, results)
    context.distributed.announce_end(status)
    return status


def _run_main_process(work: Work, context: StageContext, results: ResultReporter) -> int:
    order = context.order
    try:
        manifest = find_result(order.output)
        context.distributed.announce_begin(has_work=manifest is None)
        results.succeeded(manifest or _produce(work, context))
    except Unreported as error:
        sys.stderr.write(f"{order.stage}: {error}\n")
        return EXIT_RETRYABLE
    except (Exception, Interrupted) as error:  # noqa: BLE001 - nobody above knows which stage failed, and why
        failure = failure_of_stage(context, error)
        if _report_result_of_another_pod(order, results):
            return EXIT_DONE
        results.failed(failure, order.digest)
        sys.stderr.write(f"{order.stage}: {failure.message}\n")
        return EXIT_STATUS[failure.kind]
    _remove_work_files(context)
    return EXIT_DONE


def _run_worker(work: Work, context: StageContext) -> int:
    """Work along with the main process, and end with its exit status."""
    distributed, stage = context.distributed, context.order.stage
    try:
        if distributed.wait_for_begin() and context.order.kind in SHARED_KINDS:
            work(context)
    except WorkerExit:
        pass
    except (Exception, Interrupted) as error:  # noqa: BLE001 - nobody above knows which stage failed, and why
        failure = failure_of_stage(context, error)
        sys.stderr.write(f"{stage}: process {distributed.rank}: {failure.message}\n")
        try:
            distributed.report_failure(failure.model_dump_json(by_alias=True))
            status = distributed.wait_for_end(SHUTDOWN_TIMEOUT)
        except LostProcess:
            status = None
        return EXIT_STATUS[failure.kind] if status is None else status
    try:
        return distributed.wait_for_end() or EXIT_DONE
    except LostProcess as error:
        sys.stderr.write(f"{stage}: process {distributed.rank}: {error}\n")
        return EXIT_RETRYABLE


def _produce(work: Work, context: StageContext) -> Manifest:
    """Do the work and publish its artifact."""
    _remove_dead_attempts(context.scratch_folder.parent)
    context.artifact_folder.mkdir(parents=True)
    begun = time.monotonic()
    outcome = work(context)
    manifest = _manifest(context, outcome, outcome.seconds_before + time.monotonic() - begun)
    return publish(context.artifact_folder, context.order.output, manifest)


def _manifest(context: StageContext, outcome: StageOutcome, seconds: float) -> Manifest:
    order = context.order
    return Manifest(
        model=order.model,
        stage=order.stage,
        kind=order.kind,
        digest=order.digest,
        version=order.version,
        read_outputs=order.read_outputs,
        outputs=dict(outcome.outputs),
        files=file_entries(context.artifact_folder),
        result=outcome.result.to_json(),
        seconds=round(seconds, 3),
        environment={name: version(name) for name in _LIBRARIES}
        | {
            "python": platform.python_version(),
            "host": platform.node(),
            "cpus": str(os.cpu_count()),
            "threads": str(order.threads),
            "device": order.device,
            FINISHED: datetime.now(UTC).isoformat(timespec="milliseconds"),
            **({ACCELERATOR: context.accelerator} if "torch" in sys.modules else {}),  # else nothing was computed
        },
    )


def _report_result_of_another_pod(order: StageOrder, results: ResultReporter) -> bool:
    """Whether there is a result after all: a faster pod with the same order publishes, and removes the work files."""
    try:
        manifest = find_result(order.output)
        if manifest is not None:
            results.succeeded(manifest)
    except (MultitaskError, OSError):
        return False
    return manifest is not None


def _remove_work_files(context: StageContext) -> None:
    """Checkpoints are of no use once the manifest is published. Files that cannot be removed do no harm."""
    shutil.rmtree(context.work_folder, ignore_errors=True)
    if context.order.checkpoint is not None:
        remove_tree(context.order.checkpoint)


def _remove_dead_attempts(folder: Path) -> None:
    """Remove the half-written artifacts of processes of this machine that have ended."""
    for attempt in folder.glob("*.*.*"):
        host, process, _ = attempt.name.rsplit(".", 2)
        if host == platform.node() and (process == str(os.getpid()) or not Path("/proc", process).exists()):
            shutil.rmtree(attempt, ignore_errors=True)


@dataclass(frozen=True)
class _FailureFile:
    """A file in the work folder has the failure; a success needs no report, its manifest is in storage."""

    path: Path

    def succeeded(self, manifest: Manifest) -> None:
        """See ResultReporter.succeeded."""

    def failed(self, failure: StageFailure, digest: str) -> None:
        """See ResultReporter.failed."""
        del digest
        try:
            write_atomically(self.path, failure.model_dump_json(by_alias=True))
        except OSError as error:
            sys.stderr.write(f"{self.path} cannot be written: {error}\n")
