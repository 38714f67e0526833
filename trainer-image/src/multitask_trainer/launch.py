"""Starts a program once for each process of a stage, and ends as the first of them that fails does.

``python -m multitask_trainer.launch --processes P [--nodes N --master HOST:PORT] -m MODULE ARGUMENT …`` gives each
process torchrun's variables. On several nodes each pod of an Indexed Job runs it; the variable ``JOB_COMPLETION_INDEX``
is the pod's node rank. torchrun itself ends with 1 whatever a process ends with, which would hide whether trying again
can help. The operator writes this command into Jobs, also into those of older images: module and options stay.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from multitask_api.cluster import EXIT_ALONE, EXIT_DONE, EXIT_RETRYABLE, MASTER_PORT, POD_ENVIRONMENT, ROOT

RENDEZVOUS_TIMEOUT = 900
"""Seconds that pods wait for each other: nodes may have to be provisioned, images pulled.

A pod waits from four fifths to six fifths of it, at random. If two Jobs hold half of their GPUs each, the pods of one
give up first, and the other Job gets what it lacks.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Start the processes of this node and wait for them."""
    parser = argparse.ArgumentParser(prog="launch", usage="launch [options] -m MODULE ARGUMENT …")
    parser.add_argument("--processes", type=int, default=1, help="on this node")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--master", default=f"127.0.0.1:{MASTER_PORT}", help="HOST:PORT on the first node")
    arguments = list(sys.argv[1:] if argv is None else argv)
    # argparse would read the program's arguments as its own.
    own = arguments.index("-m") if "-m" in arguments else len(arguments)
    options, program = parser.parse_args(arguments[:own]), arguments[own:]
    if len(program) < 2:
        parser.error("-m MODULE is missing: the program to start")
    make_pod_folders(os.environ)  # torch expects the folder for temporary files to exist

    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    several = options.nodes > 1
    timeout = max(1, round(RENDEZVOUS_TIMEOUT * random.uniform(0.8, 1.2)))
    node = int(os.environ.get("JOB_COMPLETION_INDEX", "0"))
    config = LaunchConfig(
        min_nodes=options.nodes,
        max_nodes=options.nodes,
        nproc_per_node=options.processes,
        run_id="stage" if several else uuid.uuid4().hex,
        rdzv_backend="static" if several else "c10d",
        rdzv_endpoint=options.master if several else "127.0.0.1:0",
        rdzv_configs={"rank": node, "timeout": timeout} if several else {},
        local_addr=None if several else "127.0.0.1",
        max_restarts=0,  # the Job starts the pods again
        monitor_interval=0.5,
    )
    began = time.monotonic()
    try:
        elastic_launch(config, sys.executable)("-u", *program)
    except ChildFailedError as error:
        _, first = error.get_first_failure()
        return int(first.exitcode) if first.exitcode > 0 else EXIT_RETRYABLE
    except SignalException as error:
        sys.stderr.write(f"stopped: {error}\n")
        return EXIT_RETRYABLE
    except (TimeoutError, ConnectionError, RuntimeError) as error:  # torch raises RuntimeErrors for a failed rendezvous
        sys.stderr.write(f"the pods of this stage could not meet at {options.master}: {error}\n")
        return EXIT_ALONE if several and time.monotonic() - began > 0.9 * timeout else EXIT_RETRYABLE
    return EXIT_DONE


def make_pod_folders(environment: Mapping[str, str]) -> None:
    """Make the folders of a pod's empty work volume that the environment names: temporary files, caches, settings."""
    for name in POD_ENVIRONMENT:
        path = Path(environment.get(name, ""))
        if path.is_relative_to(ROOT):
            path.mkdir(parents=True, exist_ok=True)


if __name__ == "__main__":
    raise SystemExit(main())
