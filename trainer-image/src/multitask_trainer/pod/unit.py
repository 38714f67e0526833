"""Runs the unit of a stage pod: its orders one after the other, or one of the auxiliary programs.

The program reads the one of ``orders.json``, ``resolve.json``, ``gc.json``, ``clean-up.json`` and ``verify.json`` that
is below ``/multitask/orders``, and reports to the ConfigMap that ``MULTITASK_CONFIGMAP`` names. It ends with 0 when
everything is done and reported, with 2 when trying again cannot help, with 75 when it can, and with 1 for a fault of
the program.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from multitask_api.cluster import (
    CLEAN_UP,
    CLEAN_UP_KEY,
    CONFIGMAP_VARIABLE,
    EXIT_DONE,
    EXIT_RETRYABLE,
    EXIT_USER_ERROR,
    GC,
    GC_KEY,
    ORDERS_KEY,
    ORDERS_PATH,
    RESOLVE,
    RESOLVE_KEY,
    TRAINING_KINDS,
    CleanUpOrder,
    GarbageOrder,
    Orders,
    ResolveOrder,
)
from multitask_api.errors import RetryableError
from multitask_api.serving_io.verify import VERIFY_KEY, VERIFY_REVISION, VerifyOrder
from multitask_api.stage_io.manifest import Manifest, StageFailure, StageOrder
from multitask_api.stages.versions import VERSIONS
from multitask_api.types import Record
from multitask_trainer.errors import Interrupted, StageError, Unreported
from multitask_trainer.launch import make_pod_folders
from multitask_trainer.pod.configmap import SERVICE_ACCOUNT, ConfigMap, connect
from multitask_trainer.pod.heartbeat import Heartbeat, moved, moved_or_computed
from multitask_trainer.pod.reporters import ConfigMapProgressReporter, ConfigMapResultReporter, JointProgressReporter
from multitask_trainer.runtime.context import StageContext, StageOutcome
from multitask_trainer.runtime.distributed import DistributedContext
from multitask_trainer.runtime.failures import EXIT_STATUS, failure_of
from multitask_trainer.runtime.progress import FileProgressReporter
from multitask_trainer.runtime.runner import JointWork, Work, run_stage, run_together

R = TypeVar("R", bound=Record)

_STAGE_OF_KEY = {RESOLVE_KEY: RESOLVE, CLEAN_UP_KEY: CLEAN_UP, GC_KEY: GC, VERIFY_KEY: VERIFY_REVISION}
"""Key of the ConfigMap → the program of a unit that has no stage orders."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the unit of this pod."""
    parser = argparse.ArgumentParser(prog="pod")
    parser.add_argument("--orders", type=Path, default=Path(ORDERS_PATH), help="the mounted ConfigMap")
    parser.add_argument("--server", help="address of the API server (default: that of this pod's cluster)")
    parser.add_argument("--account", type=Path, default=SERVICE_ACCOUNT, help="folder with token and ca.crt")
    arguments = parser.parse_args(argv)
    if CONFIGMAP_VARIABLE not in os.environ:
        parser.error(f"{CONFIGMAP_VARIABLE} is not set: this program runs in a pod that the operator made")
    make_pod_folders(os.environ)
    signal.signal(signal.SIGTERM, interrupt)
    try:
        with connect(os.environ, arguments.server, arguments.account) as client:
            configmap = ConfigMap(os.environ[CONFIGMAP_VARIABLE], client)
            return run_unit(arguments.orders, configmap, DistributedContext.of(os.environ))
    except (RetryableError, Interrupted) as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_RETRYABLE


def run_unit(folder: Path, configmap: ConfigMap, distributed: DistributedContext) -> int:
    """Run the orders in ``folder`` and report their results; the exit status."""
    results = _UninterruptedReporter(configmap)
    if distributed.is_main_process:
        results.begin()
    orders_key = next((key for key in _STAGE_OF_KEY if (folder / key).exists()), ORDERS_KEY)
    try:
        if orders_key == RESOLVE_KEY:
            from multitask_trainer.stages import resolve  # as every stage, loaded only by the pod that runs it

            progress = ConfigMapProgressReporter(RESOLVE, configmap)
            with Heartbeat(progress, moved_or_computed):
                configmap.patch(resolve.report(_read(folder / orders_key, ResolveOrder), os.environ, progress))
            return EXIT_DONE
        if orders_key == CLEAN_UP_KEY:
            from multitask_trainer.jobs import clean_up

            progress = ConfigMapProgressReporter(CLEAN_UP, configmap)
            configmap.patch(clean_up.report(_read(folder / orders_key, CleanUpOrder), progress))
            return EXIT_DONE
        if orders_key == GC_KEY:
            from multitask_trainer.jobs import clean_up

            progress = ConfigMapProgressReporter(GC, configmap)
            configmap.patch(clean_up.report_garbage(_read(folder / orders_key, GarbageOrder), progress))
            return EXIT_DONE
        if orders_key == VERIFY_KEY:
            from multitask_trainer.jobs import verify_revision

            progress = ConfigMapProgressReporter(VERIFY_REVISION, configmap)
            configmap.patch(verify_revision.report(_read(folder / orders_key, VerifyOrder), progress))
            return EXIT_DONE
        orders = _read(folder / ORDERS_KEY, Orders).orders
    except Unreported:
        raise
    except (Exception, Interrupted) as error:  # noqa: BLE001 - nobody above reports to the operator
        failure = failure_of(_STAGE_OF_KEY.get(orders_key, orders_key), error)
        sys.stderr.write(f"{failure.stage}: {failure.message}\n")
        results.failed(failure, "")
        return EXIT_STATUS[failure.kind]
    return _run_orders(orders, configmap, results, distributed)


def _run_orders(
    orders: Sequence[StageOrder],
    configmap: ConfigMap,
    results: ConfigMapResultReporter,
    distributed: DistributedContext,
) -> int:
    """Run all orders. After a user error the next ones still run, so that all are reported; other errors end the unit.

    The status is the first one that is not `EXIT_DONE`. Orders of a kind that can be done together are.
    """
    if len(orders) > 1 and distributed.world_size == 1 and (joint := _joint_work(orders)) is not None:
        return _run_together(joint, orders, configmap, results)
    first_error = EXIT_DONE
    for order in orders:
        status = _run_order(order, configmap, results, distributed)
        first_error = first_error or status
        if status not in (EXIT_DONE, EXIT_USER_ERROR):
            break
    return first_error


def _joint_work(orders: Sequence[StageOrder]) -> JointWork | None:
    """How stages of their kind are done together; None if they are not, or an order is not for this image."""
    if len({order.kind for order in orders}) > 1 or any(VERSIONS.get(each.kind) != each.version for each in orders):
        return None
    joint: JointWork | None = getattr(_module(orders[0].kind), "work_together", None)
    return joint


def _run_together(
    work: JointWork, orders: Sequence[StageOrder], configmap: ConfigMap, results: ConfigMapResultReporter
) -> int:
    progress = JointProgressReporter(configmap)
    runs = [
        (StageContext(order, progress.of_stage(order.stage)), _EndedReporter(results, progress)) for order in orders
    ]
    with Heartbeat(progress, moved):
        return run_together(work, runs)


@dataclass(frozen=True)
class _EndedReporter:
    """Reports how a stage ended, and leaves it out of the common progress."""

    results: ConfigMapResultReporter
    progress: JointProgressReporter

    def succeeded(self, manifest: Manifest) -> None:
        """See ResultReporter.succeeded."""
        self.results.succeeded(manifest)
        self.progress.ended(manifest.stage)

    def failed(self, failure: StageFailure, digest: str) -> None:
        """See ResultReporter.failed."""
        self.results.failed(failure, digest)
        self.progress.ended(failure.stage)


def _run_order(
    order: StageOrder, configmap: ConfigMap, results: ConfigMapResultReporter, distributed: DistributedContext
) -> int:
    scoped = distributed.scoped(order.digest)
    if not distributed.is_main_process:
        return run_stage(_work, StageContext(order, FileProgressReporter(order.stage, None), scoped), results)
    progress = ConfigMapProgressReporter(order.stage, configmap)
    with Heartbeat(progress, moved if order.kind in TRAINING_KINDS else moved_or_computed):
        return run_stage(_work, StageContext(order, progress, scoped), results)


def _work(stage: StageContext) -> StageOutcome:
    """The work of the stage's kind. Raises `StageError` if this image has no such kind, or another version of it."""
    kind, version = stage.order.kind, stage.order.version
    if VERSIONS.get(kind) != version:
        raise StageError(
            f"the operator asks for version {version} of stage kind {kind!r}, and this image has {VERSIONS.get(kind)}: "
            "use operator and trainer images of one release"
        )
    work: Work = _module(kind).work
    return work(stage)


def _module(kind: str) -> Any:
    """The program of a kind of stage."""
    return importlib.import_module(f"multitask_trainer.stages.{kind.replace('-', '_')}")


def _read(path: Path, kind: type[R]) -> R:
    try:
        return kind.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise StageError(f"{path} is missing: the unit's ConfigMap has no orders for this image") from error
    except ValidationError as error:
        raise StageError(
            f"{path.name} cannot be read by this image ({error.error_count()} problems, the first: "
            f"{error.errors()[0]['msg']}); use operator and trainer images of one release"
        ) from error


class _UninterruptedReporter(ConfigMapResultReporter):
    """Writes a result to the end even if SIGTERM comes meanwhile."""

    def succeeded(self, manifest: Manifest) -> None:
        with _sigterm_ignored():
            super().succeeded(manifest)

    def failed(self, failure: StageFailure, digest: str) -> None:
        with _sigterm_ignored():
            super().failed(failure, digest)


def interrupt(_signal: int, _frame: object) -> None:
    """Training handles SIGTERM itself and leaves a checkpoint; every other stage ends here and begins anew."""
    raise Interrupted("stopped by SIGTERM; running the stage again begins it anew")


@contextmanager
def _sigterm_ignored() -> Iterator[None]:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
