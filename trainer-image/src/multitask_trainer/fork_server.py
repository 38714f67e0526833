"""Starts programs as forks of one process that has imported their libraries.

``python -m multitask_trainer.fork_server``. A small stage spends half of its work on the imports of torch and
transformers; a fork has them at once. One request a line on standard input, one answer a line on standard output, both
JSON::

    {"module": …, "arguments": […], "log": PATH, "environment": {…}}   →   {"started": PID}
                                                 when that has ended   →   {"ended": PID, "status": N}

A status is negative for a signal. The programs end with this process, and this one at the end of its input. Nothing
here may touch a GPU: a process that has used one cannot be forked.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import select
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from multitask_api.pdeathsig import follow_parent
from multitask_trainer.tuning.peft_import import import_without_bitsandbytes

PRELOADED = (
    "accelerate",
    "multitask_serving.engine.engine",
    "multitask_trainer.training.run",
    "transformers.generation",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.llama.modeling_llama",
)


@dataclass(frozen=True)
class Program:
    """What a fork runs."""

    module: str
    arguments: list[str]
    log: str
    environment: dict[str, str]


def main() -> None:
    """Serve until the end of the input; in a fork, be the program."""
    import_without_bitsandbytes()
    for name in PRELOADED:
        importlib.import_module(name)
    program = _serve()
    if program is not None:
        sys.argv = [program.module, *program.arguments]
        runpy.run_module(program.module, run_name="__main__", alter_sys=True)


def _serve() -> Program | None:
    """The program to run, in a fork; None in the server itself, when its input has ended."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    requests = _Lines(0)
    while not requests.ended:
        readable, _, _ = select.select([0, woken], [], [])
        if woken in readable:
            os.read(woken, 4096)
            for pid, status in _ended_children():
                _answer({"ended": pid, "status": status})
        if 0 in readable:
            for line in requests.read():
                program = Program(**json.loads(line))
                server = os.getpid()
                if os.fork() == 0:
                    os.close(woken)
                    os.close(wake)
                    _become(program, server)
                    return program
    return None


class _Lines:
    """The complete lines of a file descriptor."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._rest = b""
        self.ended = False

    def read(self) -> list[bytes]:
        piece = os.read(self._descriptor, 1 << 16)
        self.ended = not piece
        *lines, self._rest = (self._rest + piece).split(b"\n")
        return lines


def _ended_children() -> Iterator[tuple[int, int]]:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        yield pid, os.waitstatus_to_exitcode(status)


def _become(program: Program, server: int) -> None:
    """In the fork: a session, a log and an environment of its own."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    follow_parent(signal.SIGKILL, server)
    _answer({"started": os.getpid()})
    with Path(os.devnull).open("rb") as nothing, Path(program.log).open("ab") as log:
        os.dup2(nothing.fileno(), 0)
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    os.environ.clear()
    os.environ.update(program.environment)


def _answer(message: dict[str, int]) -> None:
    os.write(1, json.dumps(message).encode() + b"\n")  # shorter than PIPE_BUF: lines of several writers stay whole


if __name__ == "__main__":
    main()
