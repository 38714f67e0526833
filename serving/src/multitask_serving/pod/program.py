"""Runs Triton over the bundle of a revision, answers the probes of Kubernetes, and ends if Triton does.

On ``/drain`` or SIGTERM the pod is no longer ready. It still answers until nothing is in flight; then SIGTERM ends it.
The exit status is 0 after SIGTERM, 2 if the bundle or the image cannot be used, and 1 if the server failed or its
answers are wrong: the container is then started again, and its last lines say why.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import logging
import math
import os
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from multitask_api.cluster import POD_ENVIRONMENT, ROOT, WORK_PATH
from multitask_api.errors import MultitaskError, UserError
from multitask_api.serving_io.names import CACHE_LOCK, DRAIN_SECONDS, EXPORT_PATH, PROBE_PORT, TRITON_PORT
from multitask_serving.cli_common import ArgumentParser, interruptible, thread_count
from multitask_serving.pod.health import Health
from multitask_serving.pod.monitor import Timing, check_golden, drain, watch_answers, watch_processes
from multitask_serving.pod.probes import probe_server
from multitask_serving.triton.devices import check_device, container_cpus, default_device, out_of_memory_kills
from multitask_serving.triton.probe import GoldenRequest, load_golden
from multitask_serving.triton.repository import ModelSettings, write_repository
from multitask_serving.triton.server import TritonServer

ALL_ADDRESSES = "[::]" if socket.has_dualstack_ipv6() else "0.0.0.0"
"""A pod has addresses of IPv4, IPv6 or both; a socket of the first kind takes all of them."""


class NoBundle(UserError):
    """The init container has not copied a bundle."""


def main(argv: Sequence[str] | None = None, timing: Timing | None = None) -> int:
    """Run the server; the exit status."""
    parser = ArgumentParser(prog="python -m multitask_serving.pod", description=__doc__)
    parser.add_argument("--export", type=Path, default=Path(EXPORT_PATH), help="folder with bundle/ and golden.jsonl")
    parser.add_argument("--work", type=Path, default=Path(WORK_PATH), help="folder for Triton's files and log")
    parser.add_argument("--host", default=ALL_ADDRESSES, help="where Triton listens (default here: %(default)s)")
    parser.add_argument("--port", type=int, default=TRITON_PORT, help="Triton's gRPC port")
    parser.add_argument("--probe-port", type=int, default=PROBE_PORT, help="HTTP port of the probes")
    parser.add_argument("--drain-seconds", type=float, default=DRAIN_SECONDS, help="the longest drain")
    parser.add_argument("--device", default=default_device(), help="torch's device (default here: %(default)s)")
    parser.add_argument(
        "--threads", type=thread_count, help="torch's number of threads (default: the container's CPU limit)"
    )
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(levelname)s %(name)s: %(message)s")
    make_folders(dict(os.environ))
    kills = out_of_memory_kills()
    try:
        with interruptible():
            run(options, timing or Timing())
    except KeyboardInterrupt:
        return 0
    except (MultitaskError, OSError) as error:  # OSError: a volume is full
        sys.stderr.write(f"error: {error}\n")
        if out_of_memory_kills() > kills:
            sys.stderr.write("error: the container had no memory left; raise its memory in spec.serving.resources\n")
        return 2 if isinstance(error, UserError) else 1
    return 0


def make_folders(environment: dict[str, str]) -> None:
    """Make the folders of the pod's empty work volume that the environment names."""
    for path in (Path(environment.get(name, "")) for name in POD_ENVIRONMENT):
        if path.is_relative_to(ROOT):
            path.mkdir(parents=True, exist_ok=True)


def run(options: argparse.Namespace, timing: Timing) -> None:
    """Serve until SIGTERM. Raises `MultitaskError` if the server cannot start, fails, or answers wrongly."""
    health = Health()
    with ExitStack() as stack:
        stack.enter_context(probe_server(health, options.probe_port, options.drain_seconds))
        bundle, golden = options.export / "bundle", load_golden(options.export / "golden.jsonl")
        if not (bundle / "bundle.json").is_file():
            raise NoBundle(f"{bundle} is no bundle: the init container has to copy one before this program starts")
        check_device(options.device)
        stack.enter_context(_use_copy(bundle))
        settings = ModelSettings(device=options.device, threads=options.threads or container_cpus())
        repository = write_repository(str(bundle), options.work / "repository", settings)
        triton = stack.enter_context(
            TritonServer.start(
                repository,
                options.work / "triton",
                host=options.host,
                port=options.port,
                ready_timeout_s=math.inf,  # the startup probe limits it
                echo_log=True,
            )
        )
        asyncio.run(serve(triton, golden, health, options.drain_seconds, timing))


async def serve(
    triton: TritonServer, golden: Sequence[GoldenRequest], health: Health, drain_s: float, timing: Timing
) -> None:
    """Watch a running server until SIGTERM, and drain it then. Raises `TritonFailed` or `WrongAnswers`."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    async def start_and_watch() -> None:
        await check_golden(triton, golden, health, timing)
        await watch_answers(triton, golden, health, timing)

    async def drain_when_wanted() -> None:
        wanted = asyncio.Event()
        health.on_drain(lambda: loop.call_soon_threadsafe(wanted.set))
        await wanted.wait()
        await drain(triton, health, drain_s, timing)

    stopping = asyncio.create_task(stop.wait())
    draining = asyncio.create_task(drain_when_wanted())
    watching = [asyncio.create_task(start_and_watch()), asyncio.create_task(watch_processes(triton, timing))]
    try:
        await asyncio.wait({stopping, *watching}, return_when=asyncio.FIRST_COMPLETED)
        for task in watching:
            if task.done():
                task.result()
        if health.startup().passes:
            health.want_drain()
            await asyncio.wait({draining, *watching}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        tasks: list[asyncio.Task[Any]] = [stopping, draining, *watching]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _use_copy(bundle: Path) -> IO[bytes] | ExitStack[None]:
    """Keep the node's copy of the bundle, if it is one, while this is open: see `multitask_trainer.fetch`."""
    lock = bundle.resolve().parent / CACHE_LOCK
    if not lock.exists():
        return ExitStack()
    file = lock.open("rb")
    fcntl.flock(file, fcntl.LOCK_SH)
    return file
