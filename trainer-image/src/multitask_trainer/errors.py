"""The package's exception tree; whether trying again helps is in the type."""

from __future__ import annotations

from multitask_api.errors import RetryableError, UserError


class DataError(UserError):
    """Rows or files of a task cannot be used as they are."""


class StageError(UserError):
    """A stage cannot give a result from its order and parameters."""


class MergeChangesModel(UserError):
    """Base and adapter, merged into one model, no longer answer as they do apart."""


class HubUnreachable(RetryableError):
    """The model or data hub did not answer."""


class ArtifactError(RetryableError):
    """An artifact is not readable, or not what its manifest says."""


class Interrupted(BaseException):
    """The stage was stopped by a signal; training has left a checkpoint to resume from. Trying again helps.

    No `Exception`, as `KeyboardInterrupt` is none: it may come anywhere, and who takes all that a library raises for
    an answer must not take a stop for one.
    """


class LostProcess(RetryableError):
    """Another process of the same launch ended, or cannot be reached."""


class WorkerFailed(LostProcess):
    """A worker process of the same launch ended with an error; by `report_failure` it says which kind of error."""

    def __init__(self, rank: int, message: str) -> None:
        super().__init__(f"process {rank} of this stage failed: {message}")
        self.rank = rank


class LostPass(RetryableError):
    """A forward pass that all processes make together failed in this one: the others wait in it and hear of nothing."""


class GpuInUse(RetryableError):
    """What other processes hold of a GPU leaves too little for this one."""


class MicroBatchTooLarge(RetryableError):
    """The forward or backward pass of a micro-batch does not fit into the device's memory."""


class Unreported(RetryableError):
    """A result could not be written where the operator reads it."""


class ServingError(RetryableError):
    """A server that a stage started did not answer as it should."""
