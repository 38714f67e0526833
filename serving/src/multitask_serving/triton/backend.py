"""The model as Triton's Python backend runs it. Only the repository's ``model.py``, inside Triton, imports it."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import triton_python_backend_utils as pb

from multitask_serving.engine.engine import Engine
from multitask_serving.engine.model.loading import device_name
from multitask_serving.triton import wire
from multitask_serving.triton.requests import PendingRequest, ResponseChunk, TaskRequest, send_error
from multitask_serving.triton.scheduler import RequestScheduler, to_wire_error

# By name: Triton puts the class TritonError into its module only after this one is imported.
_TRITON_CODES = {
    wire.INVALID_REQUEST: "INVALID_ARG",
    wire.MISSING_FIELD: "INVALID_ARG",
    wire.UNKNOWN_TASK: "NOT_FOUND",
    wire.OVERLOADED: "UNAVAILABLE",
    wire.CANCELLED: "CANCELLED",
    wire.TIMEOUT: "UNAVAILABLE",
    wire.SHUTTING_DOWN: "UNAVAILABLE",
}


_QUEUE_TIMEOUT_S = "30"
"""Of model configurations that name none, as earlier releases wrote them."""


class TritonPythonModel:
    """The class that Triton calls. Parameters in the model configuration set the bundle, device and limits."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the bundle. An error here keeps the server from becoming ready; Triton logs it."""
        logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
        config = json.loads(args["model_config"])
        parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
        bundle = Path(args["model_repository"]) / parameters["bundle"]
        threads = int(parameters["threads"]) if "threads" in parameters else None
        engine = Engine.load(bundle, device=parameters["device"], threads=threads)
        self._revision = engine.bundle.revision
        self._device = device_name(parameters["device"])
        # The senders of unfinished requests, by request id. Weak: an entry goes when its request has finished.
        self._senders: WeakValueDictionary[str | int, _TritonResponseSender] = WeakValueDictionary()
        self._queue_timeout_s = float(parameters.get("queue_timeout_s", _QUEUE_TIMEOUT_S))
        self._scheduler = RequestScheduler(
            engine, max_waiting=int(parameters["max_waiting"]), max_batch=int(config["max_batch_size"])
        )

    def execute(self, requests: Sequence[Any]) -> None:
        """Queue the requests; they are answered through their response senders after this returns."""
        parsed = []
        for request in requests:
            sender = _TritonResponseSender(request.get_response_sender(), self._revision)
            self._senders[request.request_id() or id(sender)] = sender
            try:
                inputs = wire.parse_inputs(
                    _input_bytes(request, wire.TASK) or b"",
                    _input_bytes(request, wire.FIELDS) or b"",
                    _input_bytes(request, wire.OPTIONS),
                )
            except wire.MalformedRequest as error:
                send_error(sender, to_wire_error(error))
            else:
                timeout_s = request.timeout() / 1e6 or self._queue_timeout_s  # 0: the caller set none
                parsed.append(TaskRequest(inputs, sender, time.monotonic() + timeout_s))
        waiting = []
        for task_request in parsed:
            if task_request.inputs.options.cancel:
                self._cancel(task_request)
            elif task_request.inputs.options.status:
                self._send_status(task_request)
            else:
                waiting.append(task_request)
        self._scheduler.submit(waiting)

    def _cancel(self, request: TaskRequest) -> None:
        target = self._senders.get(request.inputs.options.cancel)
        if target is not None:
            target.cancel()
        message = "the other request is cancelled" if target else "the other request has already ended"
        send_error(request.sender, wire.WireError(wire.CANCELLED, message))

    def _send_status(self, request: TaskRequest) -> None:
        status = wire.ServerStatus(self._scheduler.in_flight(), self._scheduler.idle_s(), self._device)
        PendingRequest(request).send(ResponseChunk(status.encode(), {}), final=True)

    def finalize(self) -> None:
        """Fail the requests that have not finished, and stop."""
        self._scheduler.close()


class _TritonResponseSender:
    def __init__(self, sender: Any, revision: str) -> None:
        self._sender = sender
        self._revision = revision
        self._cancelled = False

    def cancel(self) -> None:
        """Mark the request as cancelled by its caller."""
        self._cancelled = True

    def send(self, chunk: ResponseChunk, *, final: bool) -> None:
        tensors = [
            _string_tensor(wire.TEXT, [chunk.text]),
            _string_tensor(wire.LABELS, list(chunk.scores) or [""]),
            pb.Tensor(wire.SCORES, np.array([list(chunk.scores.values()) or [0.0]], dtype=np.float32)),
            _string_tensor(wire.FINISH_REASON, [chunk.finish_reason]),
            _string_tensor(wire.REVISION, [self._revision]),
        ]
        flags = pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL if final else 0
        self._sender.send(pb.InferenceResponse(tensors), flags=flags)

    def fail(self, error: wire.WireError) -> None:
        code = getattr(pb.TritonError, _TRITON_CODES.get(error.code, "INTERNAL"))
        response = pb.InferenceResponse(error=pb.TritonError(error.encode(), code))
        self._sender.send(response, flags=pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def is_cancelled(self) -> bool:
        return self._cancelled or bool(self._sender.is_cancelled())


def _input_bytes(request: Any, name: str) -> bytes | None:
    tensor = pb.get_input_tensor_by_name(request, name)
    return None if tensor is None else bytes(tensor.as_numpy().reshape(-1)[0])


def _string_tensor(name: str, texts: Sequence[str]) -> Any:
    return pb.Tensor(name, np.array([[text.encode() for text in texts]], dtype=np.object_))
