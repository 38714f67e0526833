"""Becomes another program that ends when its parent does: ``python child.py PARENT_PID PROGRAM ARGUMENT …``.

A stage left alone by a killed run would go on writing while the next run starts it again. Linux only (prctl); a program
file of its own, because code between fork and exec of a process with threads may dead-lock.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ask for SIGKILL at the parent's death, check that it has not come yet, and become the program."""
    parent, program = int(sys.argv[1]), sys.argv[2:]
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == parent:
        os.execv(program[0], program)
    sys.exit(1)


if __name__ == "__main__":
    main()
