"""The operator's own work queue: one entry a key, delays, backoff per key, and no key twice at the same time."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from multitask_api.errors import MultitaskError

logger = logging.getLogger(__name__)

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Backoff:
    """Waits after failures: ``first`` seconds, doubled with each failure in a row, ``longest`` at most."""

    first: float = 1.0
    longest: float = 300.0
    rest: float = 5.0
    """Seconds (or the wait, if that is shorter) for which events of a failed key are held back. After that an event is
    handled at once, so that nobody who repairs a resource has to wait for the backoff to end."""

    def wait(self, failures: int) -> float:
        """Seconds to wait after ``failures`` (1 or more) failures in a row."""
        return min(self.longest, self.first * 2.0 ** min(failures - 1, 30))


class Schedule(Generic[Key]):
    """When which key is due, without waiting and without tasks; ``clock`` gives seconds and is monotonic."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, backoff: Backoff = Backoff()) -> None:
        self._clock = clock
        self._backoff = backoff
        self._due: dict[Key, float] = {}  # keys that wait; also a running key that was added meanwhile
        self._running: dict[Key, float] = {}  # when it was due
        self._failures: dict[Key, int] = {}
        self._rests: dict[Key, float] = {}  # until when events of a key that failed are held back
        self._heap: list[tuple[float, int, Key]] = []  # may contain outdated entries; _due is the truth
        self._order = itertools.count()

    def add(self, key: Key, delay: float = 0.0) -> None:
        """Make ``key`` due in ``delay`` seconds; of several calls the earliest time counts."""
        due = max(self._clock() + delay, self._rests.get(key, 0.0))
        if key not in self._due or due < self._due[key]:
            self._due[key] = due
            if key not in self._running:
                self._push(key)

    def take(self) -> Key | None:
        """The key that has been due longest, running from now on until `done` or `failed`; None: no key is due."""
        head = self._head()
        if head is None or head[0] > self._clock():
            return None
        due, _, key = heapq.heappop(self._heap)
        del self._due[key]
        self._running[key] = due
        return key

    def done(self, key: Key, requeue_after: float | None = None) -> None:
        """``key`` was reconciled; it is due again after ``requeue_after`` seconds, or earlier if it is added."""
        self._failures.pop(key, None)
        self._rests.pop(key, None)
        self._finish(key, requeue_after)

    def failed(self, key: Key) -> float:
        """Reconciling ``key`` failed; gives the seconds after which it is tried again."""
        self._failures[key] = self._failures.get(key, 0) + 1
        wait = self._backoff.wait(self._failures[key])
        self._rests[key] = self._clock() + min(wait, self._backoff.rest)
        if key in self._due:
            self._due[key] = max(self._due[key], self._rests[key])
        self._finish(key, wait)
        return wait

    def seconds_to_next(self) -> float | None:
        """Seconds until a key can be taken, 0 if one can be now; None: nothing waits."""
        head = self._head()
        return None if head is None else max(0.0, head[0] - self._clock())

    def oldest(self) -> float:
        """Seconds that the oldest key has been due without its reconcile having ended; 0 if none is due."""
        now = self._clock()
        waiting = (due for key, due in self._due.items() if key not in self._running)
        return max(0.0, now - min(itertools.chain(waiting, self._running.values()), default=now))

    def due(self) -> int:
        """How many keys are due and not being reconciled."""
        now = self._clock()
        return sum(due <= now for key, due in self._due.items() if key not in self._running)

    def running(self) -> int:
        """How many keys are being reconciled."""
        return len(self._running)

    def __len__(self) -> int:
        """How many keys wait, due or not."""
        return len(self._due)

    def _finish(self, key: Key, requeue_after: float | None) -> None:
        if requeue_after is not None:
            self.add(key, requeue_after)
        del self._running[key]
        if key in self._due:
            self._push(key)

    def _push(self, key: Key) -> None:
        heapq.heappush(self._heap, (self._due[key], next(self._order), key))

    def _head(self) -> tuple[float, int, Key] | None:
        while self._heap:
            due, _, key = self._heap[0]
            if self._due.get(key) == due and key not in self._running:
                return self._heap[0]
            heapq.heappop(self._heap)
        return None


def ignore_end(_: str, __: float) -> None:
    """The default of ``on_end``."""


class Queue(Generic[Key]):
    """Reconciles the keys of a schedule with ``workers`` tasks.

    ``reconcile(key)`` returns the seconds after which the key is due again, or None. When it raises, or takes longer
    than ``limit`` seconds, that key alone waits longer and longer (`Backoff`). ``on_end`` is called after each
    reconcile with its result (success, error, timeout or fault) and its seconds.
    """

    def __init__(
        self,
        reconcile: Callable[[Key], Awaitable[float | None]],
        *,
        workers: int,
        limit: float,
        schedule: Schedule[Key] | None = None,
        on_end: Callable[[str, float], None] = ignore_end,
    ) -> None:
        self.schedule: Schedule[Key] = Schedule() if schedule is None else schedule
        self._reconcile = reconcile
        self._limit = limit
        self._slots = asyncio.Semaphore(workers)
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._on_end = on_end
        self.reconciled = 0
        self.failed = 0
        self.seconds: deque[float] = deque(maxlen=1000)
        """How long a reconcile took, of the latest ones that raised no error."""

    def add(self, key: Key, delay: float = 0.0) -> None:
        """Make ``key`` due in ``delay`` seconds. To be called in the event loop that `run` runs in."""
        self.schedule.add(key, delay)
        self._changed.set()

    async def run(self) -> None:
        """Reconcile keys until cancelled; reconciles that run then go on, see `finish`."""
        while True:
            await self._slots.acquire()
            try:
                key = await self._next()
            except BaseException:
                self._slots.release()
                raise
            task = asyncio.create_task(self._work(key), name=f"reconcile {key}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def finish(self, grace: float) -> None:
        """Once `run` was cancelled: wait ``grace`` seconds for the reconciles that run, then cancel them."""
        if not self._tasks:
            return
        _, late = await asyncio.wait(self._tasks, timeout=grace)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    async def _next(self) -> Key:
        while True:
            self._changed.clear()
            key = self.schedule.take()
            if key is not None:
                return key
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.schedule.seconds_to_next()):
                    await self._changed.wait()

    async def _work(self, key: Key) -> None:
        clock = asyncio.get_running_loop().time
        began, result = clock(), "success"
        try:
            async with asyncio.timeout(self._limit):
                requeue_after = await self._reconcile(key)
        except asyncio.CancelledError:
            self.schedule.done(key, 0.0)
            raise
        except TimeoutError:
            result = "timeout"
            self._failed(key, f"not done in {self._limit:g} s")
        except MultitaskError as error:
            result = "error"
            self._failed(key, str(error))
        except Exception as error:  # noqa: BLE001 - one key's fault must not end the others' reconciles
            result = "fault"
            self._failed(key, "a fault of the operator", error)
        else:
            self.reconciled += 1
            self.seconds.append(clock() - began)
            self.schedule.done(key, requeue_after)
        finally:
            self._slots.release()
            self._changed.set()
        self._on_end(result, clock() - began)

    def _failed(self, key: Key, message: str, fault: Exception | None = None) -> None:
        self.failed += 1
        wait = self.schedule.failed(key)
        level = logging.WARNING if fault is None else logging.ERROR
        logger.log(level, "%s: %s; trying again in %g s", key, message, wait, exc_info=fault)
