"""``python namespaces.py PROGRAM …``: runs a program and its children in their own Linux namespaces.

They have an isolated network, private mounts and their own process ids. When the program ends or is killed, the kernel
kills the remaining processes and removes bridges, addresses, filter rules and mounts: nothing has to be cleaned up, and
clusters on one machine cannot disturb each other.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from multitask_api.pdeathsig import die_with_parent

_UNSHARE = ("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
#: Container programs write here whatever their configuration says: empty in the namespace.
_HIDDEN = ("/run/containerd", "/run/netns", "/var/lib/cni", "/var/log/containers")


def command(argv: Sequence[str]) -> list[str]:
    """The command that runs ``argv`` in its own namespaces and ends with this process; it needs root."""
    program = shutil.which(_UNSHARE[0])
    if program is None:
        raise FileNotFoundError("unshare: install util-linux")
    return die_with_parent([program, *_UNSHARE[1:], sys.executable, str(Path(__file__).resolve()), *argv])


def main() -> int:
    """Process 1 of the namespace: it sets up network and mounts, runs the program, and exits with its status."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for folder in _HIDDEN:
        Path(folder).mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], check=True)
    program = subprocess.Popen(sys.argv[1:])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to the program, too
    signal.signal(signal.SIGTERM, lambda number, _: program.send_signal(number))
    return _reap(program.pid)


def _reap(program: int) -> int:
    """Reap all child processes, as process 1 must, until ``program`` ends; its exit status."""
    while True:
        pid, status = os.wait()
        if pid == program:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


if __name__ == "__main__":
    raise SystemExit(main())
