"""Started as a program: ``launch.py PARENT BINARY ARGUMENTS…`` becomes BINARY, which ends when process PARENT does.

Without this, a server whose parent was killed would keep its port and its memory for ever. It stands in a program of
its own because code between fork and exec is unsafe in a process with threads.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Tie this process to its parent, then become the binary. Does nothing if the parent is gone already."""
    parent, *command = sys.argv[1:]
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() == int(parent):
        os.execv(command[0], command)


if __name__ == "__main__":
    main()
