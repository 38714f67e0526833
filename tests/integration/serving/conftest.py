"""A small random bundle, a real Triton server over it, and a real gateway before that, once per test process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from multitask_serving.engine.engine import Engine
from multitask_serving.triton.repository import ModelSettings, write_repository
from multitask_serving.triton.server import TritonServer

from unit.engine.builders import delta, llama, served, write_bundle

URGENCY = "How urgent is this message?\n{text}\nUrgency:"
PAIR = "Same subject?\n{first}\n{second}\nAnswer:"
REPLY = "Reply to: {text}\nReply:"


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classification tasks (one on an adapter) and two generation tasks, one with very long texts."""
    folder = tmp_path_factory.mktemp("serving") / "bundle"
    model = llama()
    tasks = [
        served("urgency", URGENCY, labels=["low", "medium", "high"]),
        served("pair", PAIR, labels=["yes", "no"], adapter="pairs"),
        served("reply", REPLY, max_new_tokens=12),
        served("essay", REPLY, max_new_tokens=700, max_length=1000),
    ]
    write_bundle(folder, tasks, models={"base": model}, adapters={"base": {"pairs": delta(model, 4, seed=3)}})
    return folder


@pytest.fixture(scope="session")
def engine(bundle: Path) -> Engine:
    """The same bundle, asked directly."""
    return Engine.load(bundle)


@pytest.fixture(scope="session")
def triton(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """A server that no test breaks."""
    work = tmp_path_factory.mktemp("triton")
    repository = write_repository(bundle, work / "repository", ModelSettings(threads=1))
    with TritonServer.start(repository, work) as server:
        yield server
