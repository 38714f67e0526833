"""``python bound.py PARENT PROGRAM …``: becomes a program that the kernel ends together with its parent.

A test run that is killed cannot stop what it started; PR_SET_PDEATHSIG does. It goes by the thread that started the
program, so start programs from a main thread.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Bind this process to PARENT, and replace it by PROGRAM."""
    parent, program = int(sys.argv[1]), sys.argv[2:]
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:  # it ended before the line above
        raise SystemExit(1)
    os.execv(program[0], program)


if __name__ == "__main__":
    main()
