"""What `helm test` runs: an answer, or the reason why there is none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import pytest

from multitask_client.proto import gateway_pb2, gateway_pb2_grpc
from multitask_serving.gateway.access.access import Access
from multitask_serving.gateway.access.callers import CallersFile
from multitask_serving.gateway.access.tls import CertificateFolder
from multitask_serving.gateway.server import running_gateway
from multitask_serving.gateway.smoke_test import main
from support.certificates import authority
from unit.serving.access.conftest import SHOP_KEY


class Answering(gateway_pb2_grpc.TaskGatewayServicer):
    """Two tasks, of which the answers are the fields."""

    async def ListTasks(self, request: object, context: object) -> gateway_pb2.ListTasksResponse:
        tasks = [gateway_pb2.Task(name=name, full_name=f"a/desk/{name}", fields=["text", "more"]) for name in "xy"]
        return gateway_pb2.ListTasksResponse(tasks=tasks)

    async def GetTask(self, request: gateway_pb2.GetTaskRequest, context: object) -> gateway_pb2.Task:
        return gateway_pb2.Task(name=request.task, full_name=f"a/desk/{request.task}", fields=["text"])

    async def Predict(self, request: gateway_pb2.PredictRequest, context: object) -> gateway_pb2.PredictResponse:
        fields = ",".join(f"{name}={value}" for name, value in sorted(request.fields.items()))
        return gateway_pb2.PredictResponse(
            task=request.task, text=f"{request.task}({fields})", served_by="all", revision="r7"
        )


@pytest.fixture
async def answering() -> AsyncIterator[str]:
    server = grpc.aio.server()
    gateway_pb2_grpc.add_TaskGatewayServicer_to_server(Answering(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "x answered 'a/desk/x(more=This is a test.,text=This is a test.)', by all of revision r7"),
        (("--fields", '{"text": "Help"}'), "x answered 'a/desk/x(more=This is a test.,text=Help)'"),
        (("--task", "y", "--fields", '{"text": "Help", "other": "o"}'), "y answered 'a/desk/y(text=Help)'"),
    ],
)
async def test_it_prints_the_answer(
    answering: str, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], said: str
) -> None:
    assert await asyncio.to_thread(main, ["--address", answering, *options]) == 0
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("key", "options", "status", "said"),
    [
        (SHOP_KEY, (), 1, "UNAVAILABLE: the task's server is not available"),
        (SHOP_KEY, ("--task", "urgencies"), 1, "PERMISSION_DENIED: caller 'shop' may not call"),
        ("x" * 40, (), 1, "UNAUTHENTICATED: the API key is not known here"),
        (SHOP_KEY, ("--fields", "[1]"), 2, "is no JSON object of texts"),
    ],
)
async def test_it_says_why_there_is_no_answer(
    routes: Path, callers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    key: str, options: tuple[str, ...], status: int, said: str,
) -> None:  # fmt: skip
    folder = authority().issue(tmp_path / "tls", "gateway")
    (tmp_path / "key").write_text(key)
    async with running_gateway(
        routes, "127.0.0.1:0", access=Access(CallersFile(callers)), certificate=CertificateFolder(folder)
    ) as gateway:
        arguments = ["--address", f"127.0.0.1:{gateway.port}", "--ca", str(folder / "ca.crt")]
        assert (
            await asyncio.to_thread(_status, [*arguments, "--api-key-file", str(tmp_path / "key"), *options]) == status
        )
    assert said in capsys.readouterr().err


async def test_without_a_task_it_says_what_to_do(
    tmp_path: Path, callers: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty.yaml"
    empty.write_text("metadata: {name: desk}\nspec: {namespace: team-b, model: desk, tasks: []}\n")
    async with running_gateway(empty, "127.0.0.1:0") as gateway:
        assert await asyncio.to_thread(main, ["--address", f"127.0.0.1:{gateway.port}"]) == 1
    assert "no task is served that this key may call; apply a model" in capsys.readouterr().err


def test_a_file_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--address", "127.0.0.1:1", "--api-key-file", str(tmp_path / "no")]) == 2
    assert "No such file" in capsys.readouterr().err


def _status(arguments: list[str]) -> int:
    try:
        return main(arguments)
    except SystemExit as ended:
        return int(ended.code or 0)
