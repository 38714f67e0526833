"""The hook by which tests end the operator in the middle of its work."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping

from multitask_operator.cluster.client import nothing

VARIABLE = "MULTITASK_TEST_EXIT_AFTER_WRITES"


def exit_after_writes(environ: Mapping[str, str]) -> Callable[[], None]:
    """For a client's ``after_write``: with the variable set to k, SIGKILL for this process right after write k."""
    left = int(environ.get(VARIABLE, "0"))
    if left < 1:
        return nothing

    def count() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    return count
