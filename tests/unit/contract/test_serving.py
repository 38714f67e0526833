"""What passes between gateway, Triton and their clients, as in version 0.1.0."""

from __future__ import annotations

import hashlib
from dataclasses import fields

import pytest
from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor

from multitask_api.serving_io import names, revision, verify
from multitask_client import messages
from multitask_client.messages import Prediction, Task
from multitask_client.proto import gateway_pb2
from multitask_serving.gateway.access.callers import parse_callers
from multitask_serving.triton import wire

METHODS = {
    "Predict": ("PredictRequest", "PredictResponse", False),
    "PredictStream": ("PredictRequest", "PredictStreamResponse", True),
    "ListTasks": ("ListTasksRequest", "ListTasksResponse", False),
    "GetTask": ("GetTaskRequest", "Task", False),
    "ReportLabel": ("ReportLabelRequest", "ReportLabelResponse", False),
}
MESSAGES = {
    "PredictRequest": ["1 task", "2 fields", "3 sampling"],
    "SamplingOptions": ["1 max_new_tokens", "2 temperature", "3 top_p", "4 seed", "5 stop"],
    "LabelScore": ["1 label", "2 score"],
    "PredictResponse": [
        *("1 task", "2 label", "3 text", "4 scores", "5 finish_reason", "6 served_by", "7 revision"),
        *("8 request_id", "9 device"),
    ],
    "PredictStreamResponse": ["1 delta", "2 final"],
    "ListTasksRequest": [],
    "ListTasksResponse": ["1 tasks"],
    "GetTaskRequest": ["1 task"],
    "Task": ["1 name", "2 full_name", "3 type", "4 fields", "5 labels", "6 served_by", "7 backends"],
    "ReportLabelRequest": ["1 request_id", "2 label"],
    "ReportLabelResponse": ["1 counted"],
    "Backend": ["1 revision", "2 weight"],
}
TRITON = {
    "MODEL": "multitask",
    "TASK": "task",
    "FIELDS": "fields",
    "OPTIONS": "options",
    "TEXT": "text",
    "LABELS": "labels",
    "SCORES": "scores",
    "FINISH_REASON": "finish_reason",
    "REVISION": "revision",
    "INVALID_REQUEST": "INVALID_REQUEST",
    "UNKNOWN_TASK": "UNKNOWN_TASK",
    "MISSING_FIELD": "MISSING_FIELD",
    "OVERLOADED": "OVERLOADED",
    "CANCELLED": "CANCELLED",
    "INTERNAL": "INTERNAL",
    "SHUTTING_DOWN": "SHUTTING_DOWN",
}
# What operator and servers of different releases agree on.
IN_THE_CLUSTER = [
    (names.SERVER_COMMAND, ("python", "-m", "multitask_serving.pod")),
    (names.FETCH_COMMAND, ("python", "-m", "multitask_trainer.fetch")),
    (verify.VERIFY_COMMAND, ("python", "-m", "multitask_trainer.verify_revision")),
    (revision.REVISION_KEY, "revision.json"),
    (verify.VERIFY_KEY, "verify.json"),
    (verify.VERIFIED_KEY, "verified.json"),
    (verify.VERIFY_REVISION, "verify-revision"),
    (names.ROUTE_COPY_KEY, "route.json"),
    (names.REVISION_PATH, "/multitask/revision"),
    (names.EXPORT_PATH, "/multitask/export"),
    (names.TRITON_PORT, 8001),
    (names.PROBE_PORT, 8080),
    (names.GATEWAY_PORT, 8081),
    (names.GATEWAY_AUDIENCE, "multitask-gateway"),
    (names.NODE_CACHE_VARIABLE, "MULTITASK_NODE_CACHE"),
    (names.CACHE_LOCK, ".in-use"),
]


@pytest.mark.parametrize(("name", "value"), IN_THE_CLUSTER)
def test_name_of_a_revision_in_the_cluster(name: object, value: object):
    assert name == value


def test_methods_and_messages_of_the_gateway():
    file = gateway_pb2.DESCRIPTOR
    (service,) = file.services_by_name.values()

    assert service.full_name == "multitask.v1.TaskGateway"
    assert {
        method.name: (method.input_type.name, method.output_type.name, method.server_streaming)
        for method in service.methods
    } == METHODS
    assert {name: _fields(message.fields) for name, message in file.message_types_by_name.items()} == MESSAGES
    enum: EnumDescriptor = file.enum_types_by_name["TaskType"]
    assert {value.name: value.number for value in enum.values} == {
        "TASK_TYPE_UNSPECIFIED": 0,
        "TASK_TYPE_CLASSIFICATION": 1,
        "TASK_TYPE_GENERATION": 2,
    }


def test_the_file_of_callers():
    """Users keep it in Secrets, and hash keys with `sha256sum`."""
    key = "sha256:" + hashlib.sha256(b"k" * 32).hexdigest()
    text = f"""
    callers:
      - name: all fields
        keys: ["{key}"]
        certificates: ["spiffe://a/b", "*.example"]
        serviceAccounts: [team-a/robot]
        allow: [team-a, team-a/desk, "*/*/urgency", "*"]
    """
    found = parse_callers(text, "f").with_key("k" * 32)
    assert found is not None
    assert found.name == "all fields"
    assert found.allow == ("team-a", "team-a/desk", "*/*/urgency", "*")
    assert messages.authorization("key") == (("authorization", "Bearer key"),)


def test_tensors_and_codes_of_triton():
    assert {name: getattr(wire, name) for name in TRITON} == TRITON


def test_texts_of_triton():
    error = wire.WireError(wire.MISSING_FIELD, "no text", "text")
    assert error.encode() == 'mtm-error {"code": "MISSING_FIELD", "message": "no text", "field": "text"}'
    options = wire.Options(stream=True, sampling={"temperature": 0.5, "max_new_tokens": 3}, cancel="id")
    assert options.encode() == (
        '{"stream": true, "sampling": {"temperature": 0.5, "max_new_tokens": 3}, "cancel": "id"}'
    )


def test_keys_that_mtm_predict_prints():
    assert [each.name for each in fields(Prediction)] == [
        *("task", "label", "text", "scores", "finish_reason", "served_by", "revision", "request_id", "device"),
    ]
    assert [each.name for each in fields(Task)] == [
        *("name", "full_name", "type", "fields", "labels", "served_by", "revisions"),
    ]


def _fields(descriptors: list[FieldDescriptor]) -> list[str]:
    return [f"{each.number} {each.name}" for each in descriptors]
