"""``python namespaces.py PROGRAM …``: runs a program, and whatever it starts, in namespaces of its own.

It gets a network without an outside, mounts that nobody else sees, and process ids of its own. When the program ends,
or is killed, the kernel ends every process that is left and removes bridges, addresses, filter rules and mounts: there
is nothing to tidy up, and nothing of another cluster on this machine can be met.
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
#: Where container programs write whatever they are told: empty in here.
_HIDDEN = ("/run/containerd", "/var/lib/cni", "/var/log/containers")


def command(argv: Sequence[str]) -> list[str]:
    """What to start so that ``argv`` runs in namespaces of its own, and ends with this process; root may."""
    program = shutil.which(_UNSHARE[0])
    if program is None:
        raise FileNotFoundError("unshare: install util-linux")
    return die_with_parent([program, *_UNSHARE[1:], sys.executable, str(Path(__file__).resolve()), *argv])


def main() -> int:
    """The first process in there: it makes the place, starts the program, and ends with the program's status."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for folder in _HIDDEN:
        Path(folder).mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], check=True)
    program = subprocess.Popen(sys.argv[1:])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to the program, too
    signal.signal(signal.SIGTERM, lambda number, _: program.send_signal(number))
    return _reap(program.pid)


def _reap(program: int) -> int:
    """Bury every process that ends here, as a first process must, until it is ``program``; its status."""
    while True:
        pid, status = os.wait()
        if pid == program:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


if __name__ == "__main__":
    raise SystemExit(main())
