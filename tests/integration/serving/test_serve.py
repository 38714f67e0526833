"""The program that serves an exported folder, and the program that sends requests to it."""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from multitask_client import TaskClient, Unavailable
from multitask_serving.triton.devices import default_device
from multitask_serving.triton.server import TritonServer


@contextmanager
def serving(folder: Path, work: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The running program, once it accepts requests, and its address."""
    command = [
        sys.executable,
        "-m",
        "multitask_serving.serve",
        str(folder),
        "--address",
        "127.0.0.1:0",
        "--threads",
        "1",
    ]
    process = subprocess.Popen(
        [*command, "--work", str(work)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        line = process.stdout.readline()
        assert line.startswith("serving 4 tasks on 127.0.0.1:"), line + process.stderr.read()
        yield process, line.split()[-1]
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=60)


def servers_of(work: Path) -> list[int]:
    """Process ids of the Triton processes that run in ``work``."""
    pids = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                runs_in, command = (folder / "cwd").readlink(), (folder / "cmdline").read_text()
            except OSError:
                continue
            if runs_in.is_relative_to(work) and "multitask_serving" not in command:
                pids.append(int(folder.name))
    return pids


def predict(address: str, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "multitask_serving.predict", "--address", address, *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60, check=False)


def test_serve_and_predict_from_start_to_end(exported: Path, tmp_path: Path) -> None:
    with serving(exported, tmp_path) as (process, address):
        with TaskClient(address) as client:
            assert client.predict("urgency", text="My parcel").label in {"low", "medium", "high"}

        one = predict(address, "urgency", "text=My parcel has not arrived", "--output", "json")
        assert one.returncode == 0, one.stderr
        answer = json.loads(one.stdout)
        assert set(answer["scores"]) == {"low", "medium", "high"}
        assert answer["served_by"] == "mixture"

        streamed = predict(address, "reply", "text=My parcel", "--stream")
        assert streamed.returncode == 0
        assert streamed.stdout == predict(address, "reply", "text=My parcel").stdout

        rows = '{"text": "My parcel", "label": "low"}\n{"words": "none"}\n{"text": "Twice"}\n'
        many = predict(address, "urgency", "--file", "-", "--output", "json", stdin=rows)
        assert many.returncode == 1
        assert "-:2: fields.text: is missing; task 'urgency' takes text" in many.stderr
        assert "1 of 3 rows were not answered" in many.stderr
        answers = [json.loads(line) for line in many.stdout.splitlines()]
        assert [answer.get("reason") for answer in answers] == [None, "INVALID_REQUEST", None]

        typo = predict(address, "urgncy", "text=x")
        assert (typo.returncode, typo.stderr) == (
            1, "error: no task 'urgncy' is served here; did you mean urgency?\n"
        )  # fmt: skip
        listed = predict(address)
        assert "urgency  Classification  (text) → low, medium, high  by mixture" in listed.stdout

        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert servers_of(tmp_path) == []
    with TaskClient(address) as client, pytest.raises(Unavailable):
        client.tasks()


@pytest.mark.parametrize(
    ("victim", "message"),
    [
        ("triton", "error: Triton( ended with status -9|'s model process died)"),
        ("stub", "error: Triton('s model process died| ended with status)"),  # sometimes Triton crashes because of it
    ],
)
def test_a_dead_triton_ends_the_program_with_one_error(
    exported: Path, tmp_path: Path, victim: str, message: str
) -> None:
    with serving(exported, tmp_path) as (process, _):
        pids = servers_of(tmp_path)
        stubs = [pid for pid in pids if "triton_python_backend_stub" in Path(f"/proc/{pid}/cmdline").read_text()]
        [triton] = set(pids) - set(stubs)
        os.kill(triton if victim == "triton" else stubs[0], signal.SIGKILL)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    messages = [line for line in errors.splitlines() if line.startswith("error:")]
    assert len(messages) == 1
    assert re.match(message, messages[0])
    assert servers_of(tmp_path) == []


def test_a_model_process_that_hangs_is_not_healthy(exported: Path, tmp_path: Path) -> None:
    with serving(exported, tmp_path) as (_, address), grpc.insecure_channel(address) as channel:
        statuses = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=60)
        assert next(statuses).status == health_pb2.HealthCheckResponse.SERVING
        [stub] = [pid for pid in servers_of(tmp_path) if "stub" in Path(f"/proc/{pid}/cmdline").read_text()]
        os.kill(stub, signal.SIGSTOP)  # nobody asks for a task meanwhile
        assert next(statuses).status == health_pb2.HealthCheckResponse.NOT_SERVING


WRONG_DEVICES = [
    ("gpu", "error: --device gpu: there is no such device; use cpu, cuda or cuda:N"),
    ("cuda:one", "error: --device cuda:one: there is no such device; use cpu, cuda or cuda:N"),
    ("cuda", "error: --device cuda: this machine has no NVIDIA GPU that this process can use; use cpu"),
    ("cuda:1", "error: --device cuda:1: this machine has no NVIDIA GPU that this process can use; use cpu"),
]


@pytest.mark.parametrize(("device", "message"), WRONG_DEVICES)
def test_a_device_that_the_machine_lacks_is_one_line_and_leaves_no_folder(
    exported: Path, tmp_path: Path, device: str, message: str
) -> None:
    if device.startswith("cuda") and default_device() == "cuda" and device != "cuda:one":
        pytest.skip("this machine has a GPU")
    command = [sys.executable, "-m", "multitask_serving.serve", str(exported), "--device", device]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)
    assert (run.returncode, run.stderr) == (2, message + "\n")
    assert list(tmp_path.glob("mtm-serve-*")) == []


def test_a_port_of_another_triton_is_one_line_and_leaves_no_folder(
    exported: Path, triton: TritonServer, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "multitask_serving.serve", str(exported), "--address", "127.0.0.1:0"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command += ["--triton-port", str(triton.port)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr == (
        f"error: cannot listen at 127.0.0.1:{triton.port}: Address already in use; choose another with --triton-port,"
        " or leave it out for any free one\n"
    )
    assert list(tmp_path.glob("mtm-serve-*")) == []


def test_killing_the_program_leaves_no_triton_behind(exported: Path, tmp_path: Path) -> None:
    with serving(exported, tmp_path) as (process, _):
        ends = [os.pidfd_open(pid) for pid in servers_of(tmp_path)]
        assert len(ends) == 2
        process.kill()
        for end in ends:
            assert select.select([end], [], [], 30)[0], "still running"
            os.close(end)
    assert servers_of(tmp_path) == []
    assert list(Path("/dev/shm").glob(f"mtm-{process.pid}-*")) == []


def test_wrong_golden_answers_are_not_served(exported: Path, tmp_path: Path) -> None:
    folder = tmp_path / "exported"
    shutil.copytree(exported, folder)
    wrong = [
        line.replace('"label": "', '"label": "not ') for line in (folder / "golden.jsonl").read_text().splitlines()
    ]
    (folder / "golden.jsonl").write_text("\n".join(wrong) + "\n")
    work = tmp_path / "work"
    run = subprocess.run(
        [sys.executable, "-m", "multitask_serving.serve", str(folder), "--address", "127.0.0.1:0", "--work", str(work)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert run.returncode == 1
    assert "error: 4 of 8 golden requests have other answers than in the evaluation: task 'urgency'" in run.stderr
    assert servers_of(work) == []


def test_a_path_with_a_space_and_foreign_letters_is_served(exported: Path, tmp_path: Path) -> None:
    """Triton starts its stub through a shell that sees paths unquoted, and the stub reads them as ASCII."""
    folder, work = tmp_path / "my päth 客" / "exported", tmp_path / "the work ü"
    shutil.copytree(exported, folder)
    with serving(folder, work) as (_, address), TaskClient(address) as client:
        assert client.predict("urgency", text="My parcel").label in {"low", "medium", "high"}
    assert servers_of(work) == []


def test_a_folder_that_lacks_parts_is_named(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "multitask_serving.serve", str(tmp_path)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert run.returncode == 2
    assert run.stderr.startswith(
        f"error: {tmp_path} cannot be served: it lacks bundle/bundle.json, routes.yaml, golden"
    )


@pytest.mark.parametrize("command", ["predict", "serve"])
def test_a_program_that_mtm_starts_has_mtms_name_and_form_in_its_errors(tmp_path: Path, command: str) -> None:
    (tmp_path / "routes.yaml").touch()
    wrong = {"predict": ["--no-such-option", "x"], "serve": [str(tmp_path), "--triton-port", "x"]}[command]
    run = subprocess.run(
        [sys.executable, "-m", "multitask_operator", command, *wrong],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert run.returncode == 2
    assert run.stderr.startswith("error: ")
    assert run.stderr.endswith(f"; `mtm {command} --help` shows how\n")
    assert run.stderr.count("\n") == 1
