"""What the programs of this package share: their names in messages, and addresses on the command line."""

from __future__ import annotations

import os

LAST_PORT = 65535

PROGRAM = "MTM_PROGRAM"
"""Environment variable with a program's name, where it was started as another one's command (``mtm predict``)."""


def program_name(module: str) -> str:
    """What a program calls itself in its help and errors."""
    return os.environ.get(PROGRAM, f"python -m {module}")


def host_and_port(address: str, *, first_port: int = 1) -> tuple[str, int] | None:
    """The parts of ``host:port``, or None if it is nothing of the kind or the port is out of range."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not first_port <= int(port) <= LAST_PORT:
        return None
    return host, int(port)
