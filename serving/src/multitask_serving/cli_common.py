"""Shared by this package's command-line programs: program names, addresses and output."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import signal
import sys
from collections.abc import Iterator
from typing import NoReturn

LAST_PORT = 65535

PROGRAM = "MTM_PROGRAM"
"""Environment variable with the program's name, set when another program runs it as a command (``mtm predict``)."""


class ArgumentParser(argparse.ArgumentParser):
    """Words its errors like the other commands of ``mtm``."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; `{self.prog} --help` shows how\n")


def replace_unencodable_characters() -> None:
    """Print ``?`` for a character that the encoding of standard output or standard error does not have."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def program_name(module: str) -> str:
    """The program's name for its help and errors."""
    return os.environ.get(PROGRAM, f"python -m {module}")


def thread_count(text: str) -> int:
    """The value of ``--threads``. Raises ArgumentTypeError."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of threads; it is 1 or more")
    return int(text)


def parse_host_port(address: str, *, first_port: int = 1) -> tuple[str, int] | None:
    """The parts of ``host:port``, or None if the address has another form or the port is out of range."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not first_port <= int(port) <= LAST_PORT:
        return None
    return host, int(port)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Treat SIGTERM like Ctrl-C, so that a server that is still loading its model is also stopped."""
    previous = signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
