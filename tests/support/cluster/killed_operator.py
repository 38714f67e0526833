"""The operator as ``mtm-operator`` runs it, killed by SIGKILL right after one of its writes.

Started as a process: ``python -P killed_operator.py WRITES KUBECONFIG``; settings come from the environment.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from multitask_operator.app import Operator
from multitask_operator.operator_main import run
from multitask_operator.reconciler import reconcile
from multitask_operator.settings import read_settings


def kill_after(writes: int) -> Callable[[], None]:
    """For an operator's ``after_write``: ends this process right after that many writes, before an answer is used."""
    left = writes

    def count() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    return count


def main(writes: int, kubeconfig: Path) -> None:
    logging.basicConfig(level="INFO", stream=sys.stderr)
    settings = read_settings({}, os.environ)
    asyncio.run(run(lambda: Operator(settings, reconcile, kubeconfig, after_write=kill_after(writes))))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
