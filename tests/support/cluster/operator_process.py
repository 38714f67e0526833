"""``mtm-operator`` as a process."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from devcluster.processes import until
from support.cluster import killed_operator

EXECUTABLE = Path(sys.executable).with_name("mtm-operator")
SECONDS = 120.0  # a busy machine starts a Python with these libraries in half a minute


class OperatorProcess:
    """A running operator and its log."""

    def __init__(self, command: Sequence[str], log: Path, namespaces: Sequence[str], **variables: str) -> None:
        self.log = log
        self._file = log.open("w")
        environment = os.environ | {
            "MULTITASK_TRAINER_IMAGE": "example.test/trainer:1",
            "MULTITASK_HEALTH_ADDRESS": "127.0.0.1",
            "MULTITASK_HEALTH_PORT": "0",
            "MULTITASK_NAMESPACES": ",".join(namespaces),
        }
        self.process = subprocess.Popen(
            command,
            env=environment | variables,
            stdin=subprocess.DEVNULL,
            stdout=self._file,
            stderr=self._file,
        )

    def log_text(self) -> str:
        return self.log.read_text()

    def readyz(self) -> httpx.Response:
        return self._get("readyz")

    def healthz(self) -> httpx.Response:
        return self._get("healthz")

    def metrics(self) -> httpx.Response:
        return self._get("metrics")

    def _get(self, what: str) -> httpx.Response:
        match = re.search(r"health on port (\d+)", self.log_text())
        if match is None:
            raise httpx.ConnectError("it does not listen yet")
        return httpx.get(f"http://127.0.0.1:{match[1]}/{what}", timeout=30, trust_env=False)

    def is_idle(self) -> bool:
        """Whether it has looked, and nothing is due or being served."""
        try:
            health = self.healthz().json()
        except httpx.HTTPError:
            return False
        return bool(health["served"] >= 1 and health["running"] == 0 and health["oldestSeconds"] == 0)

    def until(self, what: str, probe: Callable[[], bool], seconds: float = SECONDS) -> None:
        """Wait for ``probe``; the log is in the error."""
        try:
            until(what, probe, seconds)
        except TimeoutError as error:
            raise AssertionError(f"{error}\n{self.log_text()}") from error

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout=SECONDS)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._file.close()


@contextmanager
def run_operator(
    config: Path,
    folder: Path,
    *namespaces: str,
    name: str = "operator",
    killed_after_writes: int | None = None,
    **variables: str,
) -> Iterator[OperatorProcess]:
    """``mtm-operator`` while entered; with ``killed_after_writes`` it is killed right after that write."""
    command = [str(EXECUTABLE), "--kubeconfig", str(config)]
    if killed_after_writes is not None:
        command = [sys.executable, "-P", killed_operator.__file__, str(killed_after_writes), str(config)]
    process = OperatorProcess(command, folder / f"{name}.log", namespaces, **variables)
    try:
        yield process
    finally:
        process.close()
