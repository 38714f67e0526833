"""Stage programs and other programs as processes. Stages have a session of their own and end when mtm ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psutil

from multitask_api.pdeathsig import die_with_parent

#: The work folder, in the environment of every process of a run: `kill_orphans` finds them by it.
MARKER = "MTM_WORKDIR"
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class Process(Protocol):
    """A started program."""

    pid: int

    def poll(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""


class Launcher(Protocol):
    """Starts the program of a kind of stage."""

    def start(self, kind: str, orders: Sequence[Path], log: Path, environment: Mapping[str, str]) -> Process:
        """Start the program for ``orders``, which it does together; its output is appended to ``log``."""


@dataclass(frozen=True)
class ModuleLauncher:
    """``python -m <prefix>.<kind> --order ORDER …``, with the interpreter that runs mtm."""

    prefix: str = "multitask_trainer.stages"

    def start(self, kind: str, orders: Sequence[Path], log: Path, environment: Mapping[str, str]) -> Process:
        """See Launcher.start."""
        module = f"{self.prefix}.{kind.replace('-', '_')}"
        return start([sys.executable, "-m", module, *order_options(orders)], log, environment)


def order_options(orders: Sequence[Path]) -> list[str]:
    """``--order ORDER`` for each."""
    return [word for order in orders for word in ("--order", str(order))]


def start(argv: Sequence[str], log: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a program in its own session with output appended to ``log``; it is killed when this thread ends."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        return subprocess.Popen(
            die_with_parent(argv),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=dict(environment),
            start_new_session=True,
        )


def environment(workdir: Path, threads: int, gpu: str | None = None) -> dict[str, str]:
    """The environment of a stage: this process's, with thread counts, unbuffered output and `MARKER`.

    ``gpu``: the only one that it sees; None: what this process sees.
    """
    return {
        **os.environ,
        **({"CUDA_VISIBLE_DEVICES": gpu} if gpu is not None else {}),
        **dict.fromkeys(_THREAD_VARIABLES, str(threads)),
        # Threads that spin while they wait take the cores from each other: measured 5 to 9 times slower.
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
        MARKER: str(workdir),
    }


def exec_module(module: str, program: str, arguments: Sequence[str]) -> int:
    """Replace this process by ``python -m module``: signals, output and exit status are then that program's.

    In its help and its errors it calls itself ``program``.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, [sys.executable, "-m", module, *arguments], {**os.environ, "MTM_PROGRAM": program})


def signal_group(pid: int, number: int) -> None:
    """Send a signal to a program's process group; does nothing if it has ended."""
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        return


def stop_all(processes: Sequence[Process], grace: float, pause: float = 0.05) -> None:
    """SIGTERM, then SIGKILL for what has not ended after ``grace`` seconds."""
    for process in processes:
        signal_group(process.pid, signal.SIGTERM)
    deadline = time.monotonic() + grace
    while time.monotonic() < deadline and any(process.poll() is None for process in processes):
        time.sleep(pause)
    for process in processes:
        signal_group(process.pid, signal.SIGKILL)
        while process.poll() is None:
            time.sleep(pause)


def kill_orphans(workdir: Path) -> int:
    """Kill processes that an earlier run of ``workdir`` left running; their number.

    Call it only while holding the folder's lock.
    """
    orphans = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(MARKER) == str(workdir):
                process.kill()
                orphans.append(process)
        except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    psutil.wait_procs(orphans, timeout=5)
    return len(orphans)


def last_lines(log: Path, count: int = 1) -> str:
    """The last ``count`` lines of a log that are not blank; empty if there is no log."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 8192))
            text = file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
    return "\n".join([line.strip() for line in text.splitlines() if line.strip()][-count:])
