"""Serves an exported folder on this machine.

DIR contains ``bundle/``, ``routes.yaml`` and ``golden.jsonl``, as a run exports them. Triton starts on the loopback
interface. When it has given the golden answers, the gateway starts in this process. If one of them ends, so does the
other.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

from multitask_api.errors import MultitaskError, UserError
from multitask_api.routes import TaskRoute
from multitask_serving.cli_common import (
    LAST_PORT,
    ArgumentParser,
    interruptible,
    program_name,
    replace_unencodable_characters,
    thread_count,
)
from multitask_serving.gateway.server import Gateway, running_gateway
from multitask_serving.listening import AddressInUse, check_address
from multitask_serving.triton.client import TritonClient
from multitask_serving.triton.devices import check_device, default_device
from multitask_serving.triton.probe import load_golden, read_status, replay, sample_per_task
from multitask_serving.triton.repository import ModelSettings, write_repository
from multitask_serving.triton.server import LOOPBACK, TritonServer

T = TypeVar("T")

log = logging.getLogger(__name__)

GOLDEN_PER_TASK = 8
_POLL_S = 0.5
_PING_S = 2.0
"""Between two questions whether the model process answers."""
_SILENCE_S = 5.0
"""A model process that does not answer for so long is no longer healthy: its status does not wait in its queue."""
_PATIENCE_S = 3600.0
"""One that is not healthy is waited for."""


class NotServable(UserError):
    """The folder lacks something that serving needs."""


class WrongAnswers(MultitaskError):
    """The server's answers differ from those of the evaluated model."""


def local_backends(port: int) -> Callable[[TaskRoute], TaskRoute]:
    """A transformation of route tables that replaces every backend by the Triton server at ``port`` of this machine."""

    def transform(table: TaskRoute) -> TaskRoute:
        local = {"service": "127.0.0.1", "port": port}
        tasks = [
            task.model_copy(update={"backends": tuple(backend.model_copy(update=local) for backend in task.backends)})
            for task in table.spec.tasks
        ]
        return table.model_copy(update={"spec": table.spec.model_copy(update={"tasks": tuple(tasks)})})

    return transform


def check_folder(folder: Path) -> None:
    """Raise `NotServable` if ``folder`` lacks a file."""
    parts = ("bundle/bundle.json", "routes.yaml", "golden.jsonl")
    missing = [part for part in parts if not (folder / part).is_file()]
    if missing:
        raise NotServable(
            f"{folder} cannot be served: it lacks {', '.join(missing)}. Name a folder that a run exported"
        )


def check_ports(address: str, triton_port: int | None) -> None:
    """Raise `AddressInUse` if the gateway cannot listen at ``address``, or Triton at its port (None: any free one)."""
    check_address(address, "choose another with --address HOST:PORT; port 0 is any free one")
    if triton_port is None:
        return
    remedy = "choose another with --triton-port, or leave it out for any free one"
    if address.rpartition(":")[2] == str(triton_port):
        raise AddressInUse(f"port {triton_port} is for the gateway, see --address; {remedy}")
    check_address(f"{LOOPBACK}:{triton_port}", remedy)


async def serve(folder: Path, address: str, triton: TritonServer, *, announce: Callable[[str], None]) -> None:
    """Run the gateway in front of a running Triton server until SIGTERM or SIGINT.

    Calls ``announce`` with a line for the user once requests are accepted. Raises `WrongAnswers`, or `TritonFailed` if
    Triton ends by itself.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    golden = sample_per_task(load_golden(folder / "golden.jsonl"), GOLDEN_PER_TASK)
    log.info("Triton is ready; comparing its answers to %d golden requests", len(golden))
    mismatches = await _unless_stopped(stop, replay(triton.address, golden))
    if mismatches is None:
        return
    if mismatches:
        shown = "; ".join(str(mismatch) for mismatch in mismatches[:3])
        raise WrongAnswers(
            f"{len(mismatches)} of {len(golden)} golden requests have other answers than in the evaluation: {shown}. "
            "Use the device and versions of the evaluation, or run the model again"
        )
    async with running_gateway(folder / "routes.yaml", address, transform=local_backends(triton.port)) as gateway:
        host = address.rpartition(":")[0]
        announce(f"serving {len(gateway.table.routes)} tasks on {host}:{gateway.port}")
        watching = asyncio.create_task(_watch_model(triton, gateway))
        try:
            while not stop.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), _POLL_S)
                triton.check_running()
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)


async def _watch_model(triton: TritonServer, gateway: Gateway) -> None:
    """Tell the health service whether the model process answers: one that is stopped looks alive to Triton."""
    async with TritonClient(triton.address) as client:
        while True:
            answer = asyncio.ensure_future(read_status(client, timeout_s=_PATIENCE_S))
            answered, _ = await asyncio.wait({answer}, timeout=_SILENCE_S)
            if not answered:
                log.error("the model process has not answered for %g s", _SILENCE_S)
                await gateway.set_serving(False)
                await asyncio.wait({answer})
            await gateway.set_serving(answer.result() is not None)
            await asyncio.sleep(_PING_S)


async def _unless_stopped(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """The result of ``work``, or None if ``stop`` is set first, which cancels ``work``."""
    running, stopping = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
        return running.result() if running.done() else None
    finally:
        stopping.cancel()
        running.cancel()
        await asyncio.gather(running, stopping, return_exceptions=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program. Exit status 0: ended by SIGTERM or Ctrl-C; 1: failure; 2: wrong arguments or folder."""
    replace_unencodable_characters()
    parser = ArgumentParser(prog=program_name("multitask_serving.serve"), description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR", help="an exported folder")
    parser.add_argument("--address", default="127.0.0.1:8081", help="where the gateway listens (default: %(default)s)")
    parser.add_argument("--triton-port", type=_port, help="where Triton listens on 127.0.0.1 (default: any free port)")
    parser.add_argument("--device", default=default_device(), help="torch's device (default here: %(default)s)")
    parser.add_argument("--threads", type=thread_count, help="torch's number of threads (default: torch's own)")
    parser.add_argument("--work", type=Path, help="folder for Triton's log and files (default: a temporary one)")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    work = options.work or Path(tempfile.mkdtemp(prefix="mtm-serve-"))
    status = _run(options, work)
    if options.work is None:
        if status == 0:
            shutil.rmtree(work, ignore_errors=True)
        else:  # an error names the log in it, if Triton was started
            with contextlib.suppress(OSError):
                work.rmdir()
    return status


def _run(options: argparse.Namespace, work: Path) -> int:
    try:
        with interruptible():
            check_folder(options.folder)
            check_ports(options.address, options.triton_port)
            check_device(options.device)
            settings = ModelSettings(device=options.device, threads=options.threads)
            repository = write_repository("../../served", work / "repository", settings)
            _link(work / "served", options.folder / "bundle")
            log.info("starting Triton on %s; it loads the model of %s", options.device, options.folder)
            with TritonServer.start(repository, work, port=options.triton_port) as triton:
                asyncio.run(serve(options.folder, options.address, triton, announce=_print_line))
    except KeyboardInterrupt:
        return 0
    except (MultitaskError, OSError) as error:  # OSError: the disk is full, or --work is not a folder
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - a program's output
        return 2 if isinstance(error, UserError) else 1
    return 0


def _port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= LAST_PORT:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port; ports go from 1 to {LAST_PORT}")
    return int(text)


def _link(link: Path, folder: Path) -> None:
    """Link to ``folder`` under a plain name: Triton's Python reads the path in its configuration as ASCII."""
    link.unlink(missing_ok=True)
    link.symlink_to(folder.resolve())


def _print_line(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - a program's output


if __name__ == "__main__":
    sys.exit(main())
