"""What a run exported, served and asked in every way there is."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
import tritonclient.grpc as tritongrpc

from multitask_client import AsyncTaskClient, TaskClient, TaskNotFound
from support.small_suite import REPLIES, ModelFolder, Service, mtm, serving

# task, text, answer, who answers
QUESTIONS = [
    ("topic", "hello see the invoice today thanks", "billing", "classification"),
    ("topic", "dear team about my parcel now regards", "delivery", "classification"),
    ("urgency", "hi look at the courier urgent cheers", "high", "classification"),
    ("urgency", "hello see the login someday yours", "low", "classification"),
    ("reply", "hi question on the password soon bye", REPLIES["account"], "generation"),
]


@pytest.fixture(scope="module")
def service(finished: ModelFolder) -> Iterator[Service]:
    with serving(finished, tasks=4) as started:
        yield started


@pytest.mark.parametrize(("task", "text", "answer", "served_by"), QUESTIONS)
def test_predict_answers(service: Service, task: str, text: str, answer: str, served_by: str):
    done = mtm("predict", "--address", service.address, task, f"text={text}", "--output", "json")
    assert done.exit_code == 0, done.stderr
    prediction = json.loads(done.stdout)
    assert (prediction["label"] or prediction["text"], prediction["served_by"]) == (answer, served_by)


def test_predict_answers_a_file_in_order(service: Service, finished: ModelFolder):
    file = finished.folder / "data/topic/test.jsonl"
    done = mtm("predict", "--address", service.address, "topic", "--file", str(file), "--output", "json")
    assert done.exit_code == 0, done.stderr
    predicted = [json.loads(line)["label"] for line in done.stdout.splitlines()]
    gold = [json.loads(line)["label"] for line in file.read_text().splitlines()]
    assert len(predicted) == len(gold)
    score = next(task["score"] for task in finished.report()["tasks"] if task["name"] == "topic")
    assert np.mean([one == other for one, other in zip(predicted, gold, strict=True)]) == pytest.approx(score)


def test_the_task_below_the_bar_is_answered_by_its_own_model(service: Service, finished: ModelFolder):
    with TaskClient(service.address) as client:
        answer = client.predict("mood", text="hello see the van now bye")
        assert answer.served_by == client.task("mood").served_by == "baseline"
        assert answer.label in ("glad", "cross")
        assert sum(answer.scores.values()) == pytest.approx(1)
        assert answer.revision == finished.report()["revision"]
        assert {task.name: task.served_by for task in client.tasks()} == {
            task["name"]: task["servedBy"] for task in finished.report()["tasks"]
        }


async def test_both_clients_answer_alike(service: Service):
    async with AsyncTaskClient(service.address) as client:
        answers = [await client.predict(task, text=text) for task, text, _, _ in QUESTIONS]
        *pieces, last = [part async for part in client.predict_stream("reply", text=QUESTIONS[-1][1])]
    with TaskClient(service.address) as client:
        again = [client.predict(task, text=text) for task, text, _, _ in QUESTIONS]
    assert [answer.answer for answer in answers] == [answer.answer for answer in again]
    assert [answer.answer for answer in answers] == [answer for _, _, answer, _ in QUESTIONS]
    assert "".join(pieces) == last.text == REPLIES["account"]


def test_an_unknown_task_is_not_found_and_near_names_are_given(service: Service):
    with TaskClient(service.address) as client, pytest.raises(TaskNotFound) as caught:
        client.predict("topics", text="x")
    assert caught.value.status.name == "NOT_FOUND"
    assert caught.value.nearest == ("topic",)
    done = mtm("predict", "--address", service.address, "urgent", "text=x")
    assert (done.exit_code, done.stderr) == (1, "error: no task 'urgent' is served here; did you mean urgency?\n")


def test_grpcurl_finds_and_calls_the_service_by_reflection(service: Service, grpcurl: Path):
    def call(*arguments: str) -> str:
        done = subprocess.run(
            [grpcurl, "-plaintext", *arguments], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert {"multitask.v1.TaskGateway", "grpc.health.v1.Health"} <= set(call(service.address, "list").split())
    assert "rpc Predict ( .multitask.v1.PredictRequest )" in call(
        service.address, "describe", "multitask.v1.TaskGateway"
    )
    task, text, answer, served_by = QUESTIONS[0]
    question = json.dumps({"task": task, "fields": {"text": text}})
    prediction = json.loads(call("-d", question, service.address, "multitask.v1.TaskGateway/Predict"))
    assert (prediction["label"], prediction["served_by"]) == (answer, served_by)
    listed = json.loads(call(service.address, "multitask.v1.TaskGateway/ListTasks"))
    assert [item["name"] for item in listed["tasks"]] == ["mood", "reply", "topic", "urgency"]
    assert json.loads(call(service.address, "grpc.health.v1.Health/Check")) == {"status": "SERVING"}


def test_tritonclient_asks_the_model_behind_the_gateway(service: Service):
    """The model is decoupled: a request may have many responses, so it is asked over a stream."""
    answered: queue.Queue[object] = queue.Queue()
    with closing(tritongrpc.InferenceServerClient(f"127.0.0.1:{service.triton_port}")) as client:
        assert client.is_model_ready("multitask")
        assert client.get_model_config("multitask").config.model_transaction_policy.decoupled
        client.start_stream(callback=partial(lambda result, error: answered.put(error or result)))
        for number, (task, text, _, _) in enumerate(QUESTIONS):
            client.async_stream_infer("multitask", tensors(task, text), request_id=str(number))
        answers = {}
        for _ in QUESTIONS:
            result = answered.get(timeout=60)
            assert isinstance(result, tritongrpc.InferResult), result
            answers[int(result.get_response().id)] = result.as_numpy("text").ravel()[0].decode()
        client.stop_stream()
    assert [answers[number] for number in range(len(QUESTIONS))] == [answer for _, _, answer, _ in QUESTIONS]


def tensors(task: str, text: str) -> list[tritongrpc.InferInput]:
    inputs = []
    for name, value in (("task", task), ("fields", json.dumps({"text": text}))):
        tensor = tritongrpc.InferInput(name, [1, 1], "BYTES")
        tensor.set_data_from_numpy(np.array([[value.encode()]], dtype=object))
        inputs.append(tensor)
    return inputs


def test_sigterm_ends_the_servers_and_leaves_nothing(service: Service):
    """The last test of this file: it ends the service."""
    programs = service.triton_processes()
    names = {Path(program.exe()).name for program in programs}
    assert {"tritonserver", "triton_python_backend_stub"} <= names
    assert service.stop() == 0
    _, left = psutil.wait_procs(programs, timeout=10)
    assert left == []
    with TaskClient(service.address) as client, pytest.raises(Exception, match=service.address):
        client.tasks(timeout_s=5)


@pytest.mark.parametrize("content", ["a folder without a run", "no folder"])
def test_a_folder_without_a_run_cannot_be_served(tmp_path: Path, content: str):
    folder = tmp_path if content == "a folder without a run" else tmp_path / "none"
    done = subprocess.run(
        [sys.executable, "-m", "multitask_operator", "serve", str(folder)],
        capture_output=True, text=True, timeout=60, env=os.environ, check=False,
    )  # fmt: skip
    what = "is not a work folder of mtm; name the one" if folder.exists() else "does not exist; `mtm run FILE"
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {folder} {what}")
