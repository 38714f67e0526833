"""Signs of life of a stage that has nothing new to report: it downloads, hashes, loads or writes.

A program that hangs has no sign of life, and the operator says so after a while (``NoProgress``).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from multitask_trainer.pod.reporters import ConfigMapProgressReporter

INTERVAL = 60.0
"""Seconds between two looks at what the process has done."""
LEAST_WORK = 3.0
"""What it has to have done in the meantime: MiB that were moved or, where they count, seconds of CPU time."""

_IO = Path("/proc/self/io")


class Heartbeat:
    """While it is entered, repeats ``reporter``'s last report every minute in which the process has done something.

    ``work`` gives what it has done so far, in MiB and seconds: see `moved` and `moved_or_computed`.
    """

    def __init__(self, reporter: ConfigMapProgressReporter, work: Callable[[], float]) -> None:
        self._reporter = reporter
        self._work = work
        self._seen = work()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stopped.set()
        self._thread.join()

    def beat(self) -> None:
        """Look once at what has been done since the last look."""
        now = self._work()
        if now - self._seen >= LEAST_WORK:
            self._reporter.repeat()
        self._seen = now

    def _run(self) -> None:
        while not self._stopped.wait(INTERVAL):
            self.beat()


def moved() -> float:
    """MiB that this process has read and written so far: files, and what reaches the disk through a memory map.

    CPU time is none of it: processes that wait for each other on GPUs use all of it.
    """
    try:
        lines = _IO.read_text("ascii").splitlines()
    except OSError:  # no Linux, or forbidden: then there are no signs of life but reports
        return 0.0
    counts = {name: int(value) for name, _, value in (line.partition(":") for line in lines)}
    return sum(counts.get(name, 0) for name in ("rchar", "wchar", "read_bytes", "write_bytes")) / 2**20


def moved_or_computed() -> float:
    """As `moved`, with the seconds of CPU time: for programs that wait for nobody while they compute."""
    return moved() + time.process_time()
