"""A program that the kernel ends with its parent: ``python pdeathsig.py SIGNAL PARENT_PID PROGRAM ARGUMENT…``.

A parent that is killed cannot stop what it started; the parent-death signal of Linux can (prctl(2), PR_SET_PDEATHSIG).
It is set by a program of its own, which then becomes PROGRAM, because code between fork and exec may dead-lock in a
process with threads. It follows the *thread* that started the program, so start programs from a thread that lives as
long as they should.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1


def die_with_parent(argv: Sequence[str], death_signal: signal.Signals = signal.SIGKILL) -> list[str]:
    """The command that runs ``argv`` and sends it ``death_signal`` when this process ends. Start it from this process.

    The first word of ``argv`` must be the path of the program.
    """
    return [sys.executable, "-I", "-S", __file__, str(int(death_signal)), str(os.getpid()), *argv]


def main() -> None:
    """Ask for the signal, then become the program; exit with 1 if the parent has ended already."""
    death_signal, parent, program = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    follow_parent(death_signal, parent)
    os.execv(program[0], program)


def follow_parent(death_signal: int, parent: int) -> None:
    """Ask for the signal in this process; it exits with 1 if ``parent``, a process id, is not its parent any more."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, death_signal, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:  # it ended before the line above
        sys.exit(1)


if __name__ == "__main__":
    main()
