"""The program of the container ``server``, with a real Triton: start, probes, drain, faults."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from multitask_serving.engine.engine import Engine
from multitask_serving.engine.types import Request
from multitask_serving.triton import wire
from multitask_serving.triton.client import BackendError, BackendUnavailable, TritonClient
from multitask_serving.triton.server import free_port

# The program itself, with the waiting times of a test.
PROGRAM = """
import sys
from multitask_serving.pod import health
from multitask_serving.pod.monitor import Timing
from multitask_serving.pod.program import main
health.LIVENESS_SECONDS = 6
sys.exit(main(sys.argv[1:], Timing(notice_s=0.3, quiet_s=0.2, drain_poll_s=0.05, ask_s=0.2, silence_s=1, canary_s=2)))
"""
FAULTY = Path(__file__).parents[2] / "support" / "faulty_server"


@dataclass
class Pod:
    """The running program."""

    process: subprocess.Popen[str]
    port: int
    probe_port: int
    log: Path

    @property
    def address(self) -> str:
        """Triton listens on all addresses of the pod, not only on the loopback interface's first one."""
        return f"127.0.0.2:{self.port}"

    def get(self, path: str) -> tuple[int, dict[str, object]]:
        """A probe's status and answer; 0 while nothing listens."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.probe_port}{path}", timeout=60) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)
        except OSError:
            return 0, {}

    def wait_until(self, condition: Callable[[], bool], limit_s: float = 90) -> None:
        """Wait for a condition while the program runs."""
        end = time.monotonic() + limit_s
        while not condition():
            assert time.monotonic() < end, self.log.read_text()
            with_status = self.process.poll()
            assert with_status is None, f"ended with {with_status}: {self.log.read_text()}"
            threading.Event().wait(0.05)

    def wait_started(self) -> dict[str, object]:
        """The answer of the startup probe that passes first."""
        self.wait_until(lambda: self.get("/startup")[0] == 200)
        return self.get("/startup")[1]

    def end(self) -> tuple[int, str]:
        """The exit status and the output."""
        return self.process.wait(60), self.log.read_text()


@contextmanager
def pod(
    export: Path, work: Path, environment: dict[str, str] | None = None, drain_seconds: int = 30, *more: str
) -> Iterator[Pod]:
    """The program over an exported folder, with ``more`` options."""
    port, probe_port = free_port(), free_port()
    options = [f"--export={export}", f"--work={work}", f"--port={port}", f"--probe-port={probe_port}", "--threads=1"]
    options += ["--device=cpu", f"--drain-seconds={drain_seconds}", *more]
    log = work / "output"
    work.mkdir(exist_ok=True)
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *options],
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"} | (environment or {}),
        )
    try:
        yield Pod(process, port, probe_port, log)
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def export(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the init container has copied: no more than the server needs; the answers were measured on a CPU."""
    folder = tmp_path_factory.mktemp("export")
    (folder / "bundle").symlink_to(exported / "bundle")
    rows = [json.loads(line) | {"device": "cpu"} for line in (exported / "golden.jsonl").read_text().splitlines()]
    write_golden(folder, rows)
    return folder


def write_golden(folder: Path, rows: list[dict[str, object]]) -> None:
    (folder / "golden.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def with_golden(export: Path, folder: Path, change: Callable[[dict[str, object]], dict[str, object]]) -> Path:
    """The same bundle with other golden requests."""
    folder.mkdir()
    (folder / "bundle").symlink_to((export / "bundle").resolve())
    write_golden(folder, [change(json.loads(line)) for line in (export / "golden.jsonl").read_text().splitlines()])
    return folder


async def infer(address: str, task: str = "urgency", text: str = "x", options: wire.Options | None = None) -> str:
    async with TritonClient(address) as client:
        responses = client.infer(task, {"text": text}, options or wire.Options(), timeout_s=60)
        return "".join([response.text async for response in responses])


LONG = wire.Options(stream=True, sampling={"max_new_tokens": 600})


def test_a_pod_starts_serves_drains_and_ends(export: Path, engine: Engine, tmp_path: Path) -> None:
    with pod(export, tmp_path / "work") as server:
        started = server.wait_started()
        assert started["state"] == "Serving"
        assert started["golden"] == {
            "compared": 8,
            "different": 0,
            "device": "cpu",
            "measuredOn": ["cpu"],
            "summary": "8 golden requests have the answers of the evaluation (computed on cpu, measured on cpu)",
        }
        assert [server.get(path)[0] for path in ("/ready", "/live")] == [200, 200]
        [expected] = engine.classify([Request("urgency", {"text": "x"})])
        addresses = [server.address, *([f"[::1]:{server.port}"] if socket.has_dualstack_ipv6() else [])]
        assert [asyncio.run(infer(address)) for address in addresses] == [expected.label] * len(addresses)

        texts: list[str] = []
        essay = threading.Thread(target=lambda: texts.append(asyncio.run(infer(server.address, "essay", "x", LONG))))
        essay.start()
        server.wait_until(lambda: server.get("/ready")[1].get("inFlight") == 1)
        drained: list[int] = []
        draining = threading.Thread(target=lambda: drained.append(server.get("/drain")[0]))
        draining.start()
        server.wait_until(lambda: server.get("/ready")[0] == 503)
        assert [server.get(path)[0] for path in ("/startup", "/live")] == [200, 200]
        assert not texts, "the text was too short for this test"
        assert asyncio.run(infer(server.address)) == expected.label  # some gateways do not know yet
        draining.join(60)
        assert drained == [200]
        essay.join(1)
        assert len(texts) == 1

        server.process.terminate()
        status, output = server.end()
        assert status == 0, output
        assert "Started GRPCInferenceService" in output  # Triton's own log is the container's


@pytest.mark.parametrize("first", ["SIGTERM at once", "drained before"])
def test_whoever_asks_a_pod_that_ends_gets_an_answer_or_an_error_that_may_be_retried(
    export: Path, tmp_path: Path, first: str
) -> None:
    errors: list[BackendError] = []
    answers: list[str] = []

    async def ask_until_gone(address: str, task: str, options: wire.Options) -> None:
        async with TritonClient(address) as client:
            gone = 0
            while gone < 3:
                try:
                    answers.extend(
                        [each.text async for each in client.infer(task, {"text": "x"}, options, timeout_s=30)]
                    )
                except BackendError as error:
                    errors.append(error)
                    gone += isinstance(error, BackendUnavailable)
                    if not isinstance(error, BackendUnavailable):
                        return

    async def load(server: Pod) -> None:
        stream = wire.Options(stream=True)
        callers = [ask_until_gone(server.address, "urgency", wire.Options()) for _ in range(4)]
        callers += [ask_until_gone(server.address, "reply", stream) for _ in range(4)]
        running = asyncio.gather(*callers)
        await asyncio.to_thread(server.wait_until, lambda: len(answers) > 50)
        if first == "drained before":
            await asyncio.to_thread(server.get, "/drain")
        server.process.terminate()
        await asyncio.wait_for(running, 180)

    # Callers who never pause keep something in flight, so the drain takes all of its time.
    with pod(export, tmp_path / "work", drain_seconds=5) as server:
        server.wait_started()
        asyncio.run(load(server))
        status, output = server.end()
    assert status == 0, output
    assert {type(error) for error in errors} == {BackendUnavailable}, errors


def model_process(server: Pod) -> int:
    """The process id of the model process."""
    [triton] = children(server.process.pid)
    [stub] = children(triton)
    return stub


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture(scope="module")
def server(export: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    """A pod that has started. The last test that uses it kills its model process."""
    with pod(export, tmp_path_factory.mktemp("pod") / "work") as server:
        server.wait_started()
        yield server


def test_a_pod_with_a_long_queue_is_alive(server: Pod) -> None:
    """Texts take all the time for longer than the limit; a request would wait behind them for longer than allowed."""

    async def load(server: Pod) -> list[int]:
        essays = [asyncio.ensure_future(infer(server.address, "essay", f"{number}", LONG)) for number in range(24)]
        statuses = []
        while not all(essay.done() for essay in essays):
            statuses.append((await asyncio.to_thread(server.get, "/live"))[0])
            await asyncio.wait(essays, timeout=0.5)
        await asyncio.gather(*essays)
        return statuses

    assert set(asyncio.run(load(server))) == {200}


def test_a_model_process_that_hangs_is_not_alive_and_a_dead_one_ends_the_pod_with_the_reason(server: Pod) -> None:
    stub = model_process(server)
    os.kill(stub, signal.SIGSTOP)
    server.wait_until(lambda: server.get("/live")[0] == 503)
    os.kill(stub, signal.SIGKILL)
    status, output = server.end()
    assert status == 1
    assert "error: Triton's model process died. The end of" in output


def other_answer(row: dict[str, object]) -> dict[str, object]:
    return row | ({"label": "none"} if "label" in row else {"text": "none"})


def test_wrong_answers_on_the_device_of_the_evaluation_end_the_pod(export: Path, tmp_path: Path) -> None:
    with pod(with_golden(export, tmp_path / "wrong", other_answer), tmp_path / "work") as server:
        status, output = server.end()
    assert status == 1
    assert "error: 8 of 8 golden requests have other answers than in the evaluation, on the same device (cpu)" in output


def test_another_device_than_that_of_the_evaluation_does_not_keep_a_pod_from_starting(
    export: Path, tmp_path: Path
) -> None:
    changed = with_golden(export, tmp_path / "other", lambda row: other_answer(row) | {"device": "NVIDIA L4"})
    with pod(changed, tmp_path / "work") as server:
        golden = server.wait_started()["golden"]
        assert isinstance(golden, dict)
        assert (golden["different"], golden["device"]) == (8, "cpu")
        assert golden["measuredOn"] == ["NVIDIA L4"]
        assert golden["summary"] in server.log.read_text()


def _no_bundle(folder: Path) -> None:
    (folder / "bundle").unlink()


def _no_golden(folder: Path) -> None:
    (folder / "golden.jsonl").unlink()


def _broken_bundle(folder: Path) -> None:
    whole = (folder / "bundle").resolve()
    (folder / "bundle").unlink()
    shutil.copytree(whole, folder / "bundle")
    (folder / "bundle" / "bundle.json").write_text("{}")


@pytest.mark.parametrize(
    ("damage", "status", "message"),
    [
        (_no_bundle, 2, "is no bundle: the init container has to copy one"),
        (_no_golden, 2, "golden.jsonl cannot be read"),
        (_broken_bundle, 1, "before it was ready"),
    ],
)
def test_what_cannot_be_served_ends_the_pod_with_the_reason(
    export: Path, tmp_path: Path, damage: Callable[[Path], None], status: int, message: str
) -> None:
    folder = with_golden(export, tmp_path / "damaged", lambda row: row)
    damage(folder)
    with pod(folder, tmp_path / "work") as server:
        ended, output = server.end()
    assert (ended, message in output) == (status, True), output


@pytest.mark.parametrize("option", ["--port", "--probe-port"])
def test_a_port_that_is_taken_is_named(export: Path, tmp_path: Path, option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pod(export, tmp_path / "work", {}, 30, f"{option}={port}") as server:
            ended, output = server.end()
    assert ended == 2, output
    assert re.search(rf"error: cannot listen at (port |\S*:){port}: Address already in use; .*choose another", output)


def test_the_servers_of_a_test_can_be_faulty_under_live_traffic_only(
    export: Path, engine: Engine, tmp_path: Path
) -> None:
    environment = {
        "PYTHONPATH": os.pathsep.join([str(FAULTY), os.environ.get("PYTHONPATH", "")]),
        "FAULTY_ANSWERS": json.dumps({"urgency": {"wrong": True}, "reply": {"seconds": 1.5}}),
        "FAULTY_GOLDEN": str(export / "golden.jsonl"),
    }
    golden = [json.loads(line) for line in (export / "golden.jsonl").read_text().splitlines()]
    label = next(row for row in golden if row["task"] == "urgency")
    text = next(row for row in golden if row["task"] == "reply")
    with pod(export, tmp_path / "work", environment) as server:
        server.wait_started()
        assert asyncio.run(infer(server.address, "urgency", label["fields"]["text"])) == label["label"]
        assert asyncio.run(infer(server.address, "reply", text["fields"]["text"])) == text["text"]
        [right] = engine.classify([Request("urgency", {"text": "not golden"})])
        assert asyncio.run(infer(server.address, "urgency", "not golden")) != right.label
        began = time.monotonic()
        [answer] = engine.generate_all([Request("reply", {"text": "not golden"})])
        assert asyncio.run(infer(server.address, "reply", "not golden")) == answer.text
        assert time.monotonic() - began > 1.5
