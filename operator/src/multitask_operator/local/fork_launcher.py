"""Stage programs as forks of one process with torch and transformers in it (``multitask_trainer.fork_server``).

Of a machine without a GPU: a process that has used one cannot be forked, and there the imports are the smaller part.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType

from multitask_api.pdeathsig import die_with_parent
from multitask_operator.local.processes import Launcher, ModuleLauncher, Process, order_options

_SERVER = "multitask_trainer.fork_server"
_STAGES = "multitask_trainer.stages"

#: Kinds of stages that import neither torch nor transformers.
_LIGHT = frozenset({"prepare", "filter", "affinity"})


@contextlib.contextmanager
def stage_launcher(*, has_gpu: bool) -> Iterator[Launcher]:
    """How the stages of a run are started on this machine."""
    if has_gpu:
        yield ModuleLauncher()
        return
    with ForkLauncher() as launcher:
        yield launcher


class ForkLauncher:
    """A `Launcher`, and a context manager that ends the server. The server starts with the first stage that needs it.

    It is for one thread, and the server ends with that thread.
    """

    def __init__(self, server: str = _SERVER, prefix: str = _STAGES) -> None:
        self._module, self._prefix = server, prefix
        self._plain = ModuleLauncher(prefix)
        self._server: _Server | None = None

    def start(self, kind: str, orders: Sequence[Path], log: Path, environment: Mapping[str, str]) -> Process:
        """See `Launcher.start`."""
        if kind in _LIGHT:
            return self._plain.start(kind, orders, log, environment)
        if self._server is not None and not self._server.is_alive:
            self._server.stop()
            self._server = None
        if self._server is None:
            self._server = _Server(self._module, log, environment)
        request = {
            "module": f"{self._prefix}.{kind.replace('-', '_')}",
            "arguments": order_options(orders),
            "log": str(log),
            "environment": dict(environment),
        }
        try:
            return _Fork(self._server, self._server.fork(request))
        except ServerEnded:  # out of memory, for example: the next stage gets a new one
            return self._plain.start(kind, orders, log, environment)

    def __enter__(self) -> ForkLauncher:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._server is not None:
            self._server.stop()


class _Fork:
    """A program that the server has started."""

    def __init__(self, server: _Server, pid: int) -> None:
        self._server = server
        self.pid = pid

    def poll(self) -> int | None:
        """See `Process.poll`."""
        return self._server.status_of(self.pid)


class ServerEnded(RuntimeError):
    """The fork server ended before it had started the program; the program's log says why."""


class _Server:
    """A running server; what it prints itself goes to ``log``."""

    def __init__(self, module: str, log: Path, environment: Mapping[str, str]) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                die_with_parent([sys.executable, "-m", module]),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                env=dict(environment),
                bufsize=0,
                start_new_session=True,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._answers = self._process.stdin, self._process.stdout
        self._rest = b""
        self._started: list[int] = []
        self._statuses: dict[int, int] = {}

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def fork(self, request: Mapping[str, object]) -> int:
        """Start a program; its process id. Raises `ServerEnded`."""
        try:
            self._requests.write(json.dumps(request).encode() + b"\n")
        except BrokenPipeError as error:
            raise ServerEnded(str(error)) from error
        while not self._started:
            if not self._read(timeout=None):
                raise ServerEnded(f"the fork server ended with status {self._process.wait()}")
        return self._started.pop()

    def status_of(self, pid: int) -> int | None:
        """The exit status of a program that has ended; with a dead server it was killed too."""
        while pid not in self._statuses and self._read(timeout=0):
            pass
        if pid not in self._statuses and not self.is_alive:
            return -signal.SIGKILL
        return self._statuses.get(pid)

    def stop(self) -> None:
        """End the server; it ends by itself when its input does."""
        self._requests.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._answers.close()

    def _read(self, timeout: float | None) -> bool:
        """Take in what the server has answered, waiting ``timeout`` seconds for it; whether there was anything."""
        if self._answers.closed:
            return False
        readable, _, _ = select.select([self._answers], [], [], timeout)
        piece = os.read(self._answers.fileno(), 1 << 16) if readable else b""
        for message in self._messages(piece):
            if "started" in message:
                self._started.append(message["started"])
            else:
                self._statuses[message["ended"]] = message["status"]
        return bool(piece)

    def _messages(self, piece: bytes) -> Iterator[dict[str, int]]:
        *lines, self._rest = (self._rest + piece).split(b"\n")
        return map(json.loads, lines)
