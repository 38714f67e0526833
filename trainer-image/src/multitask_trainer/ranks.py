"""The processes of one launch, and the few words they exchange outside of training.

torchrun's variables tell a process its place. Only the first one (rank 0) publishes, reports and says how a stage
ended; the others help to train and wait for its word.
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

_PAUSE = 0.1
_ENDED = "ended"
FAREWELL = 30.0
"""Seconds for which the first process waits until the others have heard its last word, and they for its word on a
failure of theirs."""


class Dismissed(Exception):
    """There is nothing left to do in this process; the first one goes on alone."""


@dataclass(frozen=True)
class Ranks:
    """One process's place among those of its launch; alone by default."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    node: int = 0
    store: Store | None = None

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Ranks:
        """The place that torchrun has given this process, after all have met. Raises `LostProcess`."""
        if int(environment.get("WORLD_SIZE", "1")) == 1:
            return cls()
        from torch.distributed.distributed_c10d import PrefixStore
        from torch.distributed.rendezvous import rendezvous

        try:
            store, rank, world = next(rendezvous("env://"))
        except RuntimeError as error:
            raise LostProcess(f"the processes of this stage could not meet: {error}") from error
        local_rank, node = int(environment.get("LOCAL_RANK", "0")), int(environment.get("GROUP_RANK", "0"))
        return cls(rank, world, local_rank, node, PrefixStore("multitask", store))

    @property
    def leads(self) -> bool:
        """Whether this is the process that publishes and reports."""
        return self.rank == 0

    def about(self, what: str) -> Ranks:
        """The same processes; what they say here is heard only by who talks about ``what``."""
        if self.store is None:
            return self
        from torch.distributed.distributed_c10d import PrefixStore

        return replace(self, store=PrefixStore(what, self.store))

    def dismiss_others(self) -> None:
        """From here on the first process works alone: `Dismissed` in every other."""
        if not self.leads:
            raise Dismissed

    def once(self, what: str, make: Callable[[], None], *, on_each_node: bool) -> None:
        """Let one process (of each node) ``make`` something in the file system; the others wait until it is there."""
        key = f"{what}/{self.node}" if on_each_node else what
        if self.local_rank == 0 if on_each_node else self.leads:
            make()
            self.say(key, "made")
        elif self.wait(key, _ENDED) != "made":
            raise Dismissed  # the first process has ended the stage without it

    # -- how a stage ends ----------------------------------------------------------------------------------------------

    def end(self, status: int) -> None:
        """By the first process, last: tell the others how the stage ended, and wait a little until they know."""
        try:
            self.say(_ENDED, str(status))
            for rank in range(1, self.world):
                self.wait(f"left/{rank}", seconds=FAREWELL)
        except LostProcess:
            return  # nobody is left to be told

    def ended(self, seconds: float = float("inf")) -> int | None:
        """By the others: the status the stage ended with, once the first process says so; None after ``seconds``."""
        word = self.wait(_ENDED, seconds=seconds)
        self.say(f"left/{self.rank}", "left")
        return int(word) if word is not None else None

    def fail(self, why: str) -> None:
        """By the others: say why this process cannot go on."""
        self.say(f"failed/{self.rank}", why)

    def failures(self) -> list[str]:
        """What `fail` was told, by rank."""
        said = [self.heard(f"failed/{rank}") for rank in range(1, self.world)]
        return [why for why in said if why is not None]

    def lost(self, error: Exception) -> bool:
        """Whether ``error`` is what is raised in training when another process is gone."""
        said = str(error).lower()
        return self.world > 1 and isinstance(error, RuntimeError) and any(word in said for word in ("gloo", "nccl"))

    # -- words ---------------------------------------------------------------------------------------------------------

    def say(self, key: str, word: str) -> None:
        """Let the other processes hear ``word``."""
        if self.store is not None:
            with _lost():
                self.store.set(key, word)

    def heard(self, key: str) -> str | None:
        """What was said under ``key`` so far."""
        if self.store is None:
            return None
        with _lost():
            return self.store.get(key).decode() if self.store.check([key]) else None

    def wait(self, *keys: str, seconds: float = float("inf")) -> str | None:
        """The first word under any of ``keys``; None after ``seconds``."""
        end = time.monotonic() + seconds
        while True:
            for key in keys:
                if (word := self.heard(key)) is not None:
                    return word
            if time.monotonic() >= end:
                return None
            time.sleep(_PAUSE)


@contextmanager
def _lost() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # what torch raises for everything that goes wrong between processes
        raise LostProcess(f"the first process of this stage is gone: {error}") from error
