"""The processes of a run of `mtm`, and waiting for something that they do."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from support.small_suite import ModelFolder

MOST_SECONDS = 400


def folder_name(stage: str) -> str:
    """A stage as part of the names of its files in a work folder."""
    return stage.replace("/", "__")


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str], log: Path) -> None:
    """Return once ``condition`` holds; AssertionError if ``process`` ends before, or it takes too long."""
    deadline = time.monotonic() + MOST_SECONDS
    while not condition():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.005)


def processes_of(model_folder: ModelFolder) -> list[psutil.Process]:
    """Everything that the runs of this model started: the stages, and what the stages started."""
    processes = []
    for process in psutil.process_iter():
        try:
            if (
                process.environ().get("MTM_WORKDIR") == str(model_folder.work)
                and process.status() != psutil.STATUS_ZOMBIE
            ):
                processes.append(process)
        except (psutil.AccessDenied, psutil.NoSuchProcess):
            continue
    return processes
