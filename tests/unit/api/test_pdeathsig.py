"""A program ends with the process that started it, also when that one is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from multitask_api.pdeathsig import die_with_parent

# Both programs: a parent that starts a child and waits, and the child, which reports the signal that it gets.
PARENT = """
import signal, subprocess, sys
from multitask_api.pdeathsig import die_with_parent
subprocess.run(die_with_parent([sys.executable, "-c", sys.argv[1]], signal.Signals(int(sys.argv[2]))))
"""
CHILD = """
import signal
signal.signal(signal.SIGTERM, lambda *_: (print("SIGTERM", flush=True), exit()))
print("started", flush=True)
signal.pause()
"""


@pytest.mark.parametrize(("death_signal", "output"), [(signal.SIGTERM, "SIGTERM\n"), (signal.SIGKILL, "")])
def test_a_killed_parent_takes_the_program_with_it(death_signal, output):
    argv = [sys.executable, "-c", PARENT, CHILD, str(int(death_signal))]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout.readline() == "started\n"
        parent.kill()
        assert parent.stdout.read() == output  # ends when the child has closed it


def test_the_program_keeps_its_exit_status():
    assert subprocess.run(die_with_parent([sys.executable, "-c", "exit(7)"]), check=False).returncode == 7


def test_nothing_starts_when_the_parent_has_ended_already():
    command = die_with_parent([sys.executable, "-c", "print('started')"])
    command[command.index(str(os.getpid()))] = "1"  # not the parent
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
