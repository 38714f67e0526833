"""Batches prepared by a thread, while the steps before them are computed."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from multitask_trainer.training.batching.batches import Batches, MicroBatch

_Prepared = Sequence[MicroBatch] | Exception


class Prefetcher:
    """While it is entered, prepares the micro-batches of the steps that follow the last one that was asked for.

    They are those of the ``batches`` themselves, whatever is asked for and when; asking in order is what is fast.
    """

    def __init__(self, *, ahead: int = 2, pin: bool = False) -> None:
        """``ahead``: steps that are prepared at the most; ``pin``: into memory that a GPU copies from by itself."""
        self._ahead = ahead
        self._pin = pin
        self._worker: _Worker | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop()

    def at(self, batches: Batches, step: int) -> Sequence[MicroBatch]:
        """``batches.at(step)``; raises what that raises."""
        worker = self._worker
        if worker is None or worker.batches is not batches or worker.next_step != step:
            self._stop()
            worker = self._worker = _Worker(batches, step, self._ahead, pin=self._pin)
        return worker.take()

    def _stop(self) -> None:
        if self._worker is not None:
            self._worker.stop()
            self._worker = None


class _Worker:
    """One thread, which prepares steps from ``step`` on until it is stopped or one of them fails."""

    def __init__(self, batches: Batches, step: int, ahead: int, *, pin: bool) -> None:
        self.batches = batches
        self.next_step = step
        self._pin = pin
        self._room = threading.Semaphore(ahead)
        self._ready = threading.Semaphore(0)
        self._prepared: deque[_Prepared] = deque()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, args=(step,), name="prefetch", daemon=True)
        self._thread.start()

    def take(self) -> Sequence[MicroBatch]:
        """The micro-batches of ``next_step``."""
        self._ready.acquire()
        prepared = self._prepared.popleft()
        if isinstance(prepared, Exception):
            self.next_step = -1  # the thread has ended: asked again, another one has to begin
            raise prepared
        self.next_step += 1
        self._room.release()
        return prepared

    def stop(self) -> None:
        """End the thread; waits for the step that it prepares."""
        self._stopped = True
        self._room.release()
        self._thread.join()

    def _run(self, step: int) -> None:
        while True:
            self._room.acquire()
            if self._stopped:
                return
            prepared = self._prepare(step)
            self._prepared.append(prepared)
            self._ready.release()
            if isinstance(prepared, Exception):
                return
            step += 1

    def _prepare(self, step: int) -> _Prepared:
        try:
            micro_batches = self.batches.at(step)
            return [micro_batch.pinned() for micro_batch in micro_batches] if self._pin else micro_batches
        except Exception as error:  # noqa: BLE001 - raised where the step is asked for
            return error
