"""What a stage pod runs: the orders of its unit one after the other, ``resolve`` or ``clean-up``.

``python -m multitask_trainer.pod`` reads ``orders.json``, ``resolve.json`` or ``clean-up.json`` below
``/multitask/orders`` and reports to the ConfigMap that ``MULTITASK_CONFIGMAP`` names. It ends with 0 when everything is
done and reported, with 2 when trying again cannot help, with 75 when it can, and with 1 for a fault of the program.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from multitask_api.cluster import (
    CLEAN_UP,
    CLEAN_UP_KEY,
    CONFIGMAP_VARIABLE,
    EXIT_DONE,
    EXIT_RETRYABLE,
    EXIT_USER_ERROR,
    ORDERS_KEY,
    ORDERS_PATH,
    RESOLVE,
    RESOLVE_KEY,
    CleanUpOrder,
    Orders,
    ResolveOrder,
)
from multitask_api.errors import RetryableError, UserError
from multitask_api.stage_io.manifest import Manifest, StageFailure, StageOrder
from multitask_api.stages.versions import VERSIONS
from multitask_api.types import Record
from multitask_trainer.configmap import SERVICE_ACCOUNT, ConfigMap, ConfigMapReporter, ConfigMapResults, connect
from multitask_trainer.errors import Interrupted, StageError, Unreported
from multitask_trainer.folders import make_folders
from multitask_trainer.ranks import Ranks
from multitask_trainer.reporter import FileReporter
from multitask_trainer.stage import Outcome, Stage, carry_out

R = TypeVar("R", bound=Record)

_NO_STAGES = {RESOLVE_KEY: RESOLVE, CLEAN_UP_KEY: CLEAN_UP}
"""What a unit without orders is told by, and what it is called."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the unit of this pod."""
    parser = argparse.ArgumentParser(prog="pod")
    parser.add_argument("--orders", type=Path, default=Path(ORDERS_PATH), help="the mounted ConfigMap")
    parser.add_argument("--server", help="address of the API server (default: that of this pod's cluster)")
    parser.add_argument("--account", type=Path, default=SERVICE_ACCOUNT, help="folder with token and ca.crt")
    arguments = parser.parse_args(argv)
    if CONFIGMAP_VARIABLE not in os.environ:
        parser.error(f"{CONFIGMAP_VARIABLE} is not set: this program runs in a pod that the operator made")
    make_folders(os.environ)
    signal.signal(signal.SIGTERM, _stop)
    try:
        with connect(os.environ, arguments.server, arguments.account) as client:
            configmap = ConfigMap(os.environ[CONFIGMAP_VARIABLE], client)
            return run_unit(arguments.orders, configmap, Ranks.of(os.environ))
    except RetryableError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_RETRYABLE


def run_unit(folder: Path, configmap: ConfigMap, ranks: Ranks) -> int:
    """Carry out what lies in ``folder`` and report it; the exit status."""
    results = _Results(configmap)
    if ranks.leads:
        results.begin()
    told = next((key for key in _NO_STAGES if (folder / key).exists()), ORDERS_KEY)
    try:
        if told == RESOLVE_KEY:
            return _resolve(_read(folder / told, ResolveOrder), configmap)
        if told == CLEAN_UP_KEY:
            return _clean_up(_read(folder / told, CleanUpOrder), configmap)
        orders = _read(folder / ORDERS_KEY, Orders).orders
    except Unreported:
        raise
    except Exception as error:  # noqa: BLE001 - nobody above can tell the operator
        return _fail(_NO_STAGES.get(told, told), error, results)
    return _carry_out(orders, configmap, results, ranks)


def _carry_out(orders: Sequence[StageOrder], configmap: ConfigMap, results: _Results, ranks: Ranks) -> int:
    """Wrong input of one order says nothing about the next: all of it is told at once. Anything else ends the unit."""
    worst = EXIT_DONE
    for order in orders:
        reporter = ConfigMapReporter(order.stage, configmap) if ranks.leads else FileReporter(order.stage, None)
        status = carry_out(_program, Stage(order, reporter, ranks.about(order.digest)), results)
        if status not in (EXIT_DONE, EXIT_USER_ERROR):
            return worst or status
        worst = worst or status
    return worst


def _program(stage: Stage) -> Outcome:
    """The work of the stage's kind."""
    kind, version = stage.order.kind, stage.order.version
    if VERSIONS.get(kind) != version:
        raise StageError(
            f"the operator asks for version {version} of stage kind {kind!r}, and this image has {VERSIONS.get(kind)}: "
            "use operator and trainer images of one release"
        )
    module = importlib.import_module(f"multitask_trainer.stages.{kind.replace('-', '_')}")
    work: Callable[[Stage], Outcome] = module.work
    return work(stage)


def _resolve(order: ResolveOrder, configmap: ConfigMap) -> int:
    from multitask_trainer.stages.resolve import report

    configmap.patch(report(order, os.environ))
    return EXIT_DONE


def _clean_up(order: CleanUpOrder, configmap: ConfigMap) -> int:
    from multitask_trainer.stages.clean_up import report

    configmap.patch(report(order, ConfigMapReporter(CLEAN_UP, configmap)))
    return EXIT_DONE


def _read(path: Path, kind: type[R]) -> R:
    try:
        return kind.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise StageError(f"{path} is not there: the unit's ConfigMap has no orders for this image") from error
    except ValidationError as error:
        raise StageError(
            f"{path.name} cannot be read by this image ({error.error_count()} problems, the first: "
            f"{error.errors()[0]['msg']}); use operator and trainer images of one release"
        ) from error


def _fail(stage: str, error: Exception, results: _Results) -> int:
    kind, status = "Fault", 1
    if isinstance(error, UserError):
        kind, status = "UserError", EXIT_USER_ERROR
    elif isinstance(error, RetryableError | ConnectionError | TimeoutError):
        kind, status = "Retryable", EXIT_RETRYABLE
    else:
        traceback.print_exception(error)
    message = str(error) if status != 1 else f"{type(error).__name__}: {error}"
    sys.stderr.write(f"{stage}: {message}\n")
    results.failed(StageFailure.model_validate({"stage": stage, "kind": kind, "message": message}), "")
    return status


class _Results(ConfigMapResults):
    """A pod that is told to stop still says what it has found."""

    def done(self, manifest: Manifest) -> None:
        with _unstoppable():
            super().done(manifest)

    def failed(self, failure: StageFailure, digest: str) -> None:
        with _unstoppable():
            super().failed(failure, digest)


def _stop(_signal: int, _frame: object) -> None:
    """Training handles SIGTERM itself, and leaves a checkpoint; anything else just ends, and begins anew."""
    raise Interrupted("stopped by SIGTERM; running the stage again begins it anew")


@contextmanager
def _unstoppable() -> Iterator[None]:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    raise SystemExit(main())
