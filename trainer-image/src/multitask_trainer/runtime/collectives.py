"""Python objects between the processes of a stage; an error in one process ends all of them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from multitask_trainer.errors import Interrupted, LostPass, WorkerFailed
from multitask_trainer.runtime.distributed import WorkerExit

if TYPE_CHECKING:
    from accelerate import Accelerator

T = TypeVar("T")


def gather_results(make: Callable[[], T], accelerator: Accelerator | None) -> list[T]:
    """What ``make`` returns in each process, by rank; all processes call this, and all get the same list.

    If it fails in a process, that one raises its error. The others learn of it when their own ``make`` has ended: the
    main process raises `WorkerFailed`, a worker `WorkerExit`. ``accelerator`` None: there is one process.
    """
    if accelerator is None or accelerator.num_processes == 1:
        return [make()]
    from accelerate.utils import gather_object

    try:
        outcome = (make(), None)
    except LostPass:
        raise
    except (Exception, Interrupted) as error:
        with suppress(RuntimeError):  # a process that is gone cannot be told
            gather_object([(None, f"{type(error).__name__}: {error}")])
        raise
    outcomes = gather_object([outcome])
    failed = next((rank for rank, (_, failure) in enumerate(outcomes) if failure is not None), None)
    if failed is None:
        return [result for result, _ in outcomes]
    if accelerator.is_main_process:
        raise WorkerFailed(failed, outcomes[failed][1])
    raise WorkerExit
