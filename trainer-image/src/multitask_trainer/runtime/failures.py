"""Why a stage has no result: the kind of an error (whose it is, and whether trying again helps) and its message."""

from __future__ import annotations

import os
import traceback
from collections.abc import Mapping
from pathlib import Path

from multitask_api.cluster import EXIT_RETRYABLE, EXIT_USER_ERROR
from multitask_api.errors import MultitaskError, RetryableError, UserError
from multitask_api.stage_io.manifest import StageFailure, StageOrder
from multitask_trainer.data.locations import DataLocations
from multitask_trainer.errors import Interrupted, WorkerFailed
from multitask_trainer.runtime.context import StageContext
from multitask_trainer.runtime.distributed import DistributedContext
from multitask_trainer.storage.disk_space import full_disk_message
from multitask_trainer.storage.uris import local_path

EXIT_STATUS: Mapping[str, int] = {"UserError": EXIT_USER_ERROR, "Retryable": EXIT_RETRYABLE, "Fault": 1}
"""Kind of failure → the exit status of the process."""


def failure_of_stage(context: StageContext, error: Exception | Interrupted) -> StageFailure:
    """The failure that ``error`` ends a stage with.

    A failure that a worker process has reported comes first: the main process then only noticed that a peer is gone.
    """
    distributed = context.distributed
    if distributed.is_main_process and (reported := _failure_of_worker(distributed, error)) is not None:
        return StageFailure.model_validate_json(reported)
    message = None if isinstance(error, UserError) else _retryable_message(error, context.order, distributed)
    if message is not None:
        return _failure(context.order.stage, "Retryable", message)
    return failure_of(context.order.stage, error)


def _failure_of_worker(distributed: DistributedContext, error: Exception | Interrupted) -> str | None:
    """What a worker has reported, if that is why the main process came to ``error``."""
    if isinstance(error, WorkerFailed):
        return distributed.wait_for_failure(error.rank)
    return None if isinstance(error, MultitaskError | Interrupted) else next(iter(distributed.failures()), None)


def failure_of(stage: str, error: Exception | Interrupted) -> StageFailure:
    """The failure by the type of ``error`` alone; prints the traceback of a fault of this program."""
    if isinstance(error, UserError):
        return _failure(stage, "UserError", str(error))
    if isinstance(error, RetryableError | Interrupted | ConnectionError | TimeoutError):
        return _failure(stage, "Retryable", str(error))
    traceback.print_exception(error)
    return _failure(stage, "Fault", f"{type(error).__name__}: {error}")


def _retryable_message(
    error: Exception | Interrupted, order: StageOrder, distributed: DistributedContext
) -> str | None:
    """What to tell the user if full memory, a full disk or a lost peer process caused ``error``; None if none did."""
    if type(error).__name__ == "OutOfMemoryError":  # torch's; stages that train nothing have not imported it
        return (
            f"the GPU's memory is full: {error}. Another process may have taken it; else "
            "lower training.maxLength, or take a smaller base model or a larger GPU"
        )
    full = full_disk_message(error, _written_folders(order), DataLocations.of(".", os.environ).mounts)
    if full is None and distributed.is_lost_peer(error):
        return f"another process of this stage ended, cannot be reached, or is too far behind: {error}"
    return full


def _failure(stage: str, kind: str, message: str) -> StageFailure:
    return StageFailure.model_validate({"stage": stage, "kind": kind, "message": message})


def _written_folders(order: StageOrder) -> list[Path]:
    output = local_path(order.output)
    return [Path(order.work)] if output is None else [output, Path(order.work)]
