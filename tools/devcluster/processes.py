"""Servers that are started for tests: each has a name and a log, and ends with the process that started it."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from multitask_api.pdeathsig import die_with_parent

START_SECONDS = 180  # of a machine that has much else to do; it takes 4
STOP_SECONDS = 20


class DidNotStart(Exception):
    """A server ended, or did not answer in time; the message has the end of its log."""


def until(what: str, probe: Callable[[], bool], seconds: float) -> None:
    """Wait until ``probe`` is true. Raises TimeoutError, naming ``what``."""
    end = time.monotonic() + seconds
    pause = threading.Event()
    while not probe():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds:g} s: {what}")
        pause.wait(0.05)


class Processes:
    """The servers of one folder. They run in it, and log to ``NAME.log`` there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, command: Sequence[str]) -> None:
        """Start ``command`` (its first part an absolute path) under ``name``. Call this from the main thread."""
        with self.log(name).open("ab") as log:
            self._running[name] = subprocess.Popen(
                die_with_parent(command),
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def ready(self, name: str, probe: Callable[[], bool], seconds: float = START_SECONDS) -> None:
        """Wait until ``name`` answers. Raises DidNotStart."""

        def answers() -> bool:
            process = self._running[name]
            if process.poll() is not None:
                raise DidNotStart(f"{name} ended with {process.returncode}:\n{self.tail(name)}")
            return probe()

        try:
            until(f"{name} answers", answers, seconds)
        except TimeoutError as error:
            raise DidNotStart(f"{error}:\n{self.tail(name)}") from error

    def stop(self, name: str, number: signal.Signals = signal.SIGTERM) -> None:
        """End it with this signal, or with SIGKILL when that does not help; nothing if it does not run."""
        process = self._running.pop(name, None)
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def stop_all(self) -> None:
        """End them, the last started first."""
        for name in reversed(list(self._running)):
            self.stop(name)

    def pid(self, name: str) -> int:
        """The process id of a running server; KeyError if there is none of that name."""
        return self._running[name].pid

    def log(self, name: str) -> Path:
        """Where it logs."""
        return self._folder / f"{name}.log"

    def tail(self, name: str) -> str:
        """The last lines of its log."""
        return "\n".join(self.log(name).read_text("utf-8", errors="replace").splitlines()[-20:])
