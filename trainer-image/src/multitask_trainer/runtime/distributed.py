"""The processes of one launch, and what they exchange outside of training through torchrun's key-value store.

torchrun's variables give a process its rank. Only the main process (rank 0) publishes, reports and decides how a stage
ended; the workers help to train and to evaluate, and end with its exit status.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from multitask_trainer.errors import LostProcess

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

SHUTDOWN_TIMEOUT = 30.0
"""Seconds: how long the main process waits at the end for the workers to read its exit status, and how long a worker
that has failed waits for that status."""
_POLL_SECONDS = 0.1
_BEGIN, _ENDED = "begin", "ended"
_WITH_WORK, _WITH_RESULT = "with the work", "with the result"


class WorkerExit(Exception):
    """There is no work left for this worker; the main process goes on alone."""


@dataclass(frozen=True)
class DistributedContext:
    """One process's place among those of its launch; by default the only one."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    node: int = 0
    local_world_size: int = 1
    store: Store | None = None

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> DistributedContext:
        """The place that torchrun has given this process, after the rendezvous of all. Raises `LostProcess`."""
        if int(environment.get("WORLD_SIZE", "1")) == 1:
            return cls()
        from torch.distributed.distributed_c10d import PrefixStore
        from torch.distributed.rendezvous import rendezvous

        try:
            store, rank, world_size = next(rendezvous("env://"))
        except RuntimeError as error:
            raise LostProcess(f"the processes of this stage could not meet: {error}") from error
        local_rank, node = int(environment.get("LOCAL_RANK", "0")), int(environment.get("GROUP_RANK", "0"))
        local_world_size = int(environment.get("LOCAL_WORLD_SIZE", world_size))
        return cls(rank, world_size, local_rank, node, local_world_size, PrefixStore("multitask", store))

    @property
    def is_main_process(self) -> bool:
        """Whether this is the process that publishes and reports."""
        return self.rank == 0

    @property
    def has_other_nodes(self) -> bool:
        """Whether some of the processes are on other machines, with files of their own."""
        return self.local_world_size < self.world_size

    def scoped(self, scope: str) -> DistributedContext:
        """The same processes with keys of their own in the store, so that two orders do not read each other's."""
        if self.store is None:
            return self
        from torch.distributed.distributed_c10d import PrefixStore

        return replace(self, store=PrefixStore(scope, self.store))

    def exit_workers(self) -> None:
        """From here on the main process works alone: `WorkerExit` in every other."""
        if not self.is_main_process:
            raise WorkerExit

    def run_once(self, name: str, make: Callable[[], None], *, on_each_node: bool) -> None:
        """Let one process (of each node) ``make`` something in the file system; the others wait until it is there."""
        key = f"{name}/{self.node}" if on_each_node else name
        is_maker = self.local_rank == 0 if on_each_node else self.is_main_process
        if is_maker:
            make()
            self.store_set(key, "made")
        elif self.store_wait(key, _ENDED) != "made":
            raise WorkerExit  # the main process has ended the stage without it

    # -- how a stage begins and ends -----------------------------------------------------------------------------------

    def announce_begin(self, *, has_work: bool) -> None:
        """By the main process, first: whether there is work, or a result already."""
        self.store_set(_BEGIN, _WITH_WORK if has_work else _WITH_RESULT)

    def wait_for_begin(self) -> bool:
        """By a worker: whether there is work; not if the main process ends before it announces any."""
        return self.store_wait(_BEGIN, _ENDED) == _WITH_WORK

    def announce_end(self, status: int) -> None:
        """By the main process, last: the exit status of the stage; waits `SHUTDOWN_TIMEOUT` for workers to read it."""
        try:
            self.store_set(_ENDED, str(status))
            for rank in range(1, self.world_size):
                self.store_wait(f"left/{rank}", seconds=SHUTDOWN_TIMEOUT)
        except LostProcess:
            return  # no worker is left that could read it

    def wait_for_end(self, seconds: float = float("inf")) -> int | None:
        """By a worker: the exit status that the main process announces; None after ``seconds`` without one."""
        status = self.store_wait(_ENDED, seconds=seconds)
        self.store_set(f"left/{self.rank}", "left")
        return int(status) if status is not None else None

    def report_failure(self, failure: str) -> None:
        """By a worker: why this process cannot go on."""
        self.store_set(f"failed/{self.rank}", failure)

    def failures(self) -> list[str]:
        """What the workers passed to `report_failure`, by rank."""
        reported = [self.store_get(f"failed/{rank}") for rank in range(1, self.world_size)]
        return [failure for failure in reported if failure is not None]

    def wait_for_failure(self, rank: int) -> str | None:
        """What the worker ``rank`` passes to `report_failure`; None after `SHUTDOWN_TIMEOUT` without it."""
        return self.store_wait(f"failed/{rank}", seconds=SHUTDOWN_TIMEOUT)

    def is_lost_peer(self, error: BaseException) -> bool:
        """Whether ``error`` is what a collective operation raises when another process is gone."""
        message = str(error).lower()
        is_collective = any(backend in message for backend in ("gloo", "nccl"))
        return self.world_size > 1 and isinstance(error, RuntimeError) and is_collective

    # -- the store -----------------------------------------------------------------------------------------------------

    def store_set(self, key: str, value: str) -> None:
        """Set a key for all processes."""
        if self.store is not None:
            with _store_errors():
                self.store.set(key, value)

    def store_get(self, key: str) -> str | None:
        """The value of ``key``; None if no process has set it yet."""
        if self.store is None:
            return None
        with _store_errors():
            return self.store.get(key).decode() if self.store.check([key]) else None

    def store_wait(self, *keys: str, seconds: float = float("inf")) -> str | None:
        """The first value under any of ``keys``; None after ``seconds``."""
        end = time.monotonic() + seconds
        while True:
            for key in keys:
                if (value := self.store_get(key)) is not None:
                    return value
            if time.monotonic() >= end:
                return None
            time.sleep(_POLL_SECONDS)


@contextmanager
def _store_errors() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # torch raises it for everything that goes wrong between processes
        raise LostProcess(f"the main process of this stage is gone: {error}") from error
