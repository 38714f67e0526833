"""Several processes of one launch as forks of a program that has imported torch: cheaper than torchrun.

A program that uses this must not have computed anything with torch before: threads do not survive a fork.
"""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable

from multitask_api.pdeathsig import follow_parent


def run_processes(count: int, work: Callable[[], int]) -> list[int]:
    """Call ``work`` in each of ``count`` processes that have torchrun's variables; what it returns, by rank."""
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # as torchrun's agent does
    program, children = os.getpid(), []
    for rank in range(count):
        child = os.fork()
        if child == 0:
            follow_parent(signal.SIGKILL, program)
            os.environ |= {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(count),
                "LOCAL_WORLD_SIZE": str(count),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(store.port),
                "TORCHELASTIC_USE_AGENT_STORE": "True",
                "ACCELERATE_USE_CPU": "true",
            }
            try:
                status = work()
            except BaseException:  # noqa: BLE001 - the fork must not return into the program
                traceback.print_exc()
                status = 70
            os._exit(status)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
