"""Starts a program once for each process of a stage, and ends as the first of them that fails does.

``python -m multitask_trainer.launch --processes P [--nodes N --master HOST:PORT] -m MODULE ARGUMENT …`` gives each
process torchrun's variables. On several nodes each pod of an Indexed Job runs it; the pod's place is the variable
``JOB_COMPLETION_INDEX``. torchrun itself ends with 1 whatever a process ends with, which would hide whether trying
again can help.
"""

from __future__ import annotations

import argparse
import os
import sys
import uuid
from collections.abc import Sequence

from multitask_api.cluster import EXIT_DONE, EXIT_RETRYABLE, MASTER_PORT
from multitask_trainer.folders import make_folders

MEETING = 900
"""Seconds that pods wait for each other: nodes may have to be found, images pulled."""


def main(argv: Sequence[str] | None = None) -> int:
    """Start the processes of this node and wait for them."""
    parser = argparse.ArgumentParser(prog="launch", usage="launch [options] -m MODULE ARGUMENT …")
    parser.add_argument("--processes", type=int, default=1, help="on this node")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--master", default=f"127.0.0.1:{MASTER_PORT}", help="HOST:PORT on the first node")
    given = list(sys.argv[1:] if argv is None else argv)
    own = given.index("-m") if "-m" in given else len(given)  # argparse would read the program's arguments as its own
    found, program = parser.parse_args(given[:own]), given[own:]
    if len(program) < 2:
        parser.error("-m MODULE is missing: the program to start")
    make_folders(os.environ)  # torch wants a folder for temporary files already here

    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    several = found.nodes > 1
    config = LaunchConfig(
        min_nodes=found.nodes,
        max_nodes=found.nodes,
        nproc_per_node=found.processes,
        run_id="stage" if several else uuid.uuid4().hex,
        rdzv_backend="static" if several else "c10d",
        rdzv_endpoint=found.master if several else "127.0.0.1:0",
        rdzv_configs={"rank": int(os.environ.get("JOB_COMPLETION_INDEX", "0")), "timeout": MEETING} if several else {},
        local_addr=None if several else "127.0.0.1",
        max_restarts=0,  # the Job starts the pods again
        monitor_interval=0.5,
    )
    try:
        elastic_launch(config, sys.executable)("-u", *program)
    except ChildFailedError as error:
        _, first = error.get_first_failure()
        return int(first.exitcode) if first.exitcode > 0 else EXIT_RETRYABLE
    except SignalException as error:
        sys.stderr.write(f"stopped: {error}\n")
        return EXIT_RETRYABLE
    except (TimeoutError, ConnectionError, RuntimeError) as error:  # torch's own errors of a meeting are RuntimeErrors
        sys.stderr.write(f"the pods of this stage could not meet at {found.master}: {error}\n")
        return EXIT_RETRYABLE
    return EXIT_DONE


if __name__ == "__main__":
    raise SystemExit(main())
