"""A small random bundle and a real Triton server for it, once per test process; route files for gateways."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
import yaml

from multitask_api.routes import Backend, RoutedTask, RouteMetadata, TaskRoute, TaskRouteSpec
from multitask_serving.engine.engine import Engine
from multitask_serving.engine.types import Request
from multitask_serving.triton.repository import ModelSettings, write_repository
from multitask_serving.triton.server import TritonServer
from support.engine_builders import llama, random_adapter, served_task, write_bundle

URGENCY = "How urgent is this message?\n{text}\nUrgency:"
PAIR = "Same subject?\n{first}\n{second}\nAnswer:"
REPLY = "Reply to: {text}\nReply:"


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classification tasks (one on an adapter) and two generation tasks, one with very long texts."""
    folder = tmp_path_factory.mktemp("serving") / "bundle"
    model = llama()
    with torch.no_grad():
        model.lm_head.weight[2] = 0  # EOS is never the most probable token, so texts have the maximum length
    tasks = [
        served_task("urgency", URGENCY, labels=["low", "medium", "high"]),
        served_task("pair", PAIR, labels=["yes", "no"], adapter="pairs"),
        served_task("reply", REPLY, max_new_tokens=12),
        served_task("essay", REPLY, max_new_tokens=700, max_length=1000),
    ]
    write_bundle(folder, tasks, models={"base": model}, adapters={"base": {"pairs": random_adapter(model, 4, seed=3)}})
    return folder


@pytest.fixture(scope="session")
def engine(bundle: Path) -> Engine:
    """An engine over the same bundle."""
    return Engine.load(bundle)


@pytest.fixture(scope="session")
def triton(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """A server that no test breaks."""
    work = tmp_path_factory.mktemp("triton")
    repository = write_repository(bundle, work / "repository", ModelSettings(threads=1))
    with TritonServer.start(repository, work) as server:
        yield server


MESSAGES = ["My parcel has not arrived", "The card was charged twice", "", "顾客想退款 😀"]


def backend(port: int, *, weight: int = 100, revision: str = "test") -> Backend:
    """A server on this machine."""
    return Backend(service="127.0.0.1", port=port, weight=weight, revision=revision)


def table(*backends: Backend, tasks: Sequence[str] = ("urgency", "pair", "reply", "essay")) -> TaskRoute:
    """The bundle's tasks, each on the same backends."""
    kinds = {
        "urgency": ("Classification", ("text",), ("low", "medium", "high")),
        "pair": ("Classification", ("first", "second"), ("yes", "no")),
        "reply": ("Generation", ("text",), ()),
        "essay": ("Generation", ("text",), ()),
    }
    routed = tuple(
        RoutedTask(name=name, type=type_, fields=fields, labels=labels, served_by="mixture", backends=backends)
        for name, (type_, fields, labels) in kinds.items()
        if name in tasks
    )
    return TaskRoute(metadata=RouteMetadata(name="desk"), spec=TaskRouteSpec(model="desk", tasks=routed))


def write_table(path: Path, *tables: TaskRoute) -> Path:
    """A route file."""
    path.write_text(yaml.safe_dump_all(one.to_json() for one in tables))
    return path


@pytest.fixture
def routes(tmp_path: Path, triton: TritonServer) -> Path:
    """A route file that leads to the real server."""
    return write_table(tmp_path / "routes.yaml", table(backend(triton.port)))


@pytest.fixture(scope="session")
def exported(bundle: Path, engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a run exports it. Copy it before changing anything."""
    folder = tmp_path_factory.mktemp("exported")
    shutil.copytree(bundle, folder / "bundle")
    write_table(folder / "routes.yaml", table(backend(8001)))
    with (folder / "golden.jsonl").open("w") as golden:
        for text in MESSAGES:
            request = Request("urgency", {"text": text})
            [label] = engine.classify([request])
            golden.write(json.dumps({"task": "urgency", "fields": {"text": text}, "label": label.label}) + "\n")
            [answer] = engine.generate_all([Request("reply", {"text": text})])
            golden.write(json.dumps({"task": "reply", "fields": {"text": text}, "text": answer.text}) + "\n")
    return folder
