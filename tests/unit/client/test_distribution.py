"""`multitask-client` is installed alone: its wheel and what it declares is all that a program needs for asking."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from collections.abc import Iterable
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import multitask_client
from multitask_serving import client as former_name
from multitask_serving.gateway.server import running_gateway
from support.unreachable_gateway import write_routes

ROOT = Path(__file__).parents[3]
PROTO = ROOT / "client/src/multitask_client/proto"
#: What the three libraries and what they depend on come to: nothing above a few MB.
LIBRARIES = {"googleapis-common-protos", "grpcio", "protobuf", "typing-extensions"}

PROGRAM = """
import asyncio, json, sys
from multitask_client import AsyncTaskClient, GatewayError, InvalidRequest, TaskClient

def failed(call):
    try:
        return call()
    except GatewayError as error:
        return [type(error).__name__, error.status.name, error.reason, sorted(getattr(error, "violations", ()))]

async def names(address):
    async with AsyncTaskClient(address, timeout_s=20) as client:
        return [task.name for task in await client.tasks()]

with TaskClient(sys.argv[1], timeout_s=20) as client:
    said = {
        "tasks": [[task.name, task.type, list(task.labels)] for task in client.tasks()],
        "asyncio": asyncio.run(names(sys.argv[1])),
        "no task": failed(lambda: client.predict("urgncy", text="Help")),
        "no field": failed(lambda: client.predict("urgency", txt="Help")),
        "no answer": failed(lambda: client.predict("urgency", text="Help")),
    }
said["imported"] = sorted({name.partition(".")[0] for name in sys.modules})
print(json.dumps(said))
"""


def declared() -> dict[str, Requirement]:
    project = tomllib.loads((ROOT / "client/pyproject.toml").read_text("utf-8"))["project"]
    return {Requirement(each).name: Requirement(each) for each in project["dependencies"]}


def with_dependencies(names: Iterable[str]) -> set[str]:
    """The distributions and all that they require, without extras."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            required = map(Requirement, distribution(name).requires or ())
            waiting += [each.name for each in required if each.marker is None or each.marker.evaluate({"extra": ""})]
    return found


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with the client's wheel and the libraries it declares, and nothing else."""
    folder = tmp_path_factory.mktemp("environment")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder / "wheels")]
    subprocess.run(build, cwd=ROOT / "client", check=True, capture_output=True)
    (wheel,) = (folder / "wheels").iterdir()
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    (packages,) = (folder / "venv").glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    for name in with_dependencies(declared()):
        for file in distribution(name).files or ():
            if ".." not in file.parts:
                (packages / file).parent.mkdir(parents=True, exist_ok=True)
                (packages / file).symlink_to(Path(str(file.locate())).resolve())
    return folder / "venv" / "bin" / "python"


@pytest.fixture
def routes(tmp_path: Path) -> Path:
    """The routes of a gateway with one task, whose backend cannot be reached."""
    return write_routes(tmp_path / "routes.yaml")


async def test_the_wheel_and_its_libraries_are_enough_to_call_a_gateway(python: Path, routes: Path) -> None:
    async with running_gateway(routes, "127.0.0.1:0") as gateway:
        command = [str(python), "-I", "-W", "error", "-c", PROGRAM, f"127.0.0.1:{gateway.port}"]
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    said = json.loads(out)
    assert said["tasks"] == [["urgency", "Classification", ["a", "b"]]]
    assert said["asyncio"] == ["urgency"]
    assert said["no task"] == ["TaskNotFound", "NOT_FOUND", "TASK_NOT_FOUND", []]
    assert said["no field"] == [
        "InvalidRequest", "INVALID_ARGUMENT", "INVALID_REQUEST", ["fields.text", "fields.txt"],
    ]  # fmt: skip
    assert said["no answer"] == ["Unavailable", "UNAVAILABLE", "NO_BACKEND", []]
    others = {"multitask_api", "multitask_serving", "numpy", "pydantic", "torch", "transformers", "yaml"}
    assert others.isdisjoint(said["imported"])


def test_what_is_installed_with_the_client_is_small() -> None:
    assert with_dependencies(declared()) == LIBRARIES


@pytest.mark.parametrize(
    ("library", "module", "pattern"),
    [
        ("grpcio", "gateway_pb2_grpc.py", r"GRPC_GENERATED_VERSION = '(\d+\.\d+)\.(\d+)'"),
        ("protobuf", "gateway_pb2.py", r"Protobuf Python Version: (\d+\.\d+)\.(\d+)"),
    ],
)
def test_the_oldest_library_allowed_is_the_oldest_that_the_generated_modules_take(
    library: str, module: str, pattern: str
) -> None:
    version, patch = re.search(pattern, (PROTO / module).read_text("utf-8")).groups()
    allowed = declared()[library].specifier
    assert f"{version}.{patch}" in allowed
    assert f"{version}.{int(patch) - 1}" not in allowed


@pytest.mark.parametrize("name", multitask_client.__all__)
def test_programs_that_import_the_clients_from_multitask_serving_get_the_same_ones(name: str) -> None:
    assert name in former_name.__all__
    assert getattr(former_name, name) is getattr(multitask_client, name)
