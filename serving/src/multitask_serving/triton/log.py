"""The log of a Triton server: a file, and in a pod also this program's output."""

from __future__ import annotations

import re
import sys
import threading
from collections import deque
from pathlib import Path
from typing import IO

TAIL_LINES = 30
_MAX_BYTES = 10_000_000
"""At this size the file begins anew: a server in a pod runs for months."""


def copy_log(source: IO[bytes], path: Path) -> threading.Thread:
    """Copy every line to ``path`` and to standard output, in a thread that ends with ``source``."""
    thread = threading.Thread(target=_copy, args=(source, path), name="triton-log", daemon=True)
    thread.start()
    return thread


def _copy(source: IO[bytes], path: Path) -> None:
    with path.open("wb") as file:
        for line in source:
            if file.tell() > _MAX_BYTES:
                file.seek(0)
                file.truncate()
            file.write(line)
            file.flush()
            sys.stdout.write(line.decode(errors="replace"))
            sys.stdout.flush()


def log_tail(log: Path, lines: int = TAIL_LINES) -> str:
    """The last lines of a log, without Triton's tables and blank lines."""
    with log.open(errors="replace") as text:
        return "".join(deque((line for line in text if not re.match(r"[+|]|\s*$", line)), lines)).rstrip()
