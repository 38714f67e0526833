"""One finished run of the small suite, made once and shared by all test processes."""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import asdict
from pathlib import Path

import pytest

from support.small_suite import CommandResult, ModelFolder, run_once


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    """The small suite after `mtm run`. Tests read it, and copy it to change anything."""
    return ModelFolder(_shared(tmp_path_factory) / "desk")


@pytest.fixture(scope="session")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> CommandResult:
    """Exit code and output of that run."""
    return CommandResult(**json.loads((_shared(tmp_path_factory) / "done.json").read_text()))


def _shared(factory: pytest.TempPathFactory) -> Path:
    """The folder of the run. The first test process that comes makes it; the others wait for it."""
    own = factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "finished"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done.json").exists():
            done = run_once(folder / "desk")
            (folder / "done.json").write_text(json.dumps(asdict(done)))
    done = CommandResult(**json.loads((folder / "done.json").read_text()))
    assert done.exit_code == 0, done.stderr
    return folder
