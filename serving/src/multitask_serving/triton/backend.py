"""The model as Triton's Python backend runs it. Imported by the repository's ``model.py``, inside Triton alone."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import triton_python_backend_utils as pb

from multitask_serving.engine.engine import Engine
from multitask_serving.triton import wire
from multitask_serving.triton.answering import Answering, to_wire
from multitask_serving.triton.callers import Call, Part, tell

# By name: Triton puts the class TritonError into its module only after this one is imported.
_CODES = {
    wire.INVALID_REQUEST: "INVALID_ARG",
    wire.MISSING_FIELD: "INVALID_ARG",
    wire.UNKNOWN_TASK: "NOT_FOUND",
    wire.OVERLOADED: "UNAVAILABLE",
    wire.CANCELLED: "CANCELLED",
}


class TritonPythonModel:
    """What Triton calls. The configuration's parameters say which bundle to serve and how (see `repository`)."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the bundle. An error here keeps the server from becoming ready, and stands in its log."""
        logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
        entries = json.loads(args["model_config"])["parameters"]
        parameters = {key: value["string_value"] for key, value in entries.items()}
        bundle = Path(args["model_repository"]) / parameters["bundle"]
        threads = int(parameters["threads"]) if "threads" in parameters else None
        engine = Engine.load(bundle, device=parameters["device"], threads=threads)
        self._revision = engine.bundle.revision
        # Those not finished yet, by request id: whoever answers a request holds its sender.
        self._senders: WeakValueDictionary[str | int, _TritonSender] = WeakValueDictionary()
        self._answering = Answering(engine, max_waiting=int(parameters["max_waiting"]))

    def execute(self, requests: Sequence[Any]) -> None:
        """Answer a batch through its response senders. Generations go on after this returns."""
        calls = []
        for request in requests:
            sender = _TritonSender(request.get_response_sender(), self._revision)
            self._senders[request.request_id() or id(sender)] = sender
            try:
                inputs = wire.parse_inputs(
                    _bytes(request, wire.TASK) or b"",
                    _bytes(request, wire.FIELDS) or b"",
                    _bytes(request, wire.OPTIONS),
                )
            except wire.MalformedRequest as error:
                tell(sender, to_wire(error))
            else:
                calls.append(Call(inputs, sender))
        for call in calls:
            if call.inputs.options.cancel:
                self._cancel(call)
        self._answering.answer([call for call in calls if not call.inputs.options.cancel])

    def _cancel(self, call: Call) -> None:
        other = self._senders.get(call.inputs.options.cancel)
        if other is not None:
            other.cancel()
        tell(call.sender, wire.WireError(wire.CANCELLED, "done" if other else "that request has ended already"))

    def finalize(self) -> None:
        """End what is still under way."""
        self._answering.close()


class _TritonSender:
    def __init__(self, sender: Any, revision: str) -> None:
        self._sender = sender
        self._revision = revision
        self._cancelled = False

    def cancel(self) -> None:
        """The caller asked to stop, by another request."""
        self._cancelled = True

    def send(self, part: Part, *, final: bool) -> None:
        tensors = [
            _texts(wire.TEXT, [part.text]),
            _texts(wire.LABELS, list(part.scores) or [""]),
            pb.Tensor(wire.SCORES, np.array([list(part.scores.values()) or [0.0]], dtype=np.float32)),
            _texts(wire.FINISH_REASON, [part.finish_reason]),
            _texts(wire.REVISION, [self._revision]),
        ]
        flags = pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL if final else 0
        self._sender.send(pb.InferenceResponse(tensors), flags=flags)

    def fail(self, error: wire.WireError) -> None:
        code = getattr(pb.TritonError, _CODES.get(error.code, "INTERNAL"))
        response = pb.InferenceResponse(error=pb.TritonError(error.encode(), code))
        self._sender.send(response, flags=pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def is_cancelled(self) -> bool:
        return self._cancelled or bool(self._sender.is_cancelled())


def _bytes(request: Any, name: str) -> bytes | None:
    tensor = pb.get_input_tensor_by_name(request, name)
    return None if tensor is None else bytes(tensor.as_numpy().reshape(-1)[0])


def _texts(name: str, texts: Sequence[str]) -> Any:
    return pb.Tensor(name, np.array([[text.encode() for text in texts]], dtype=np.object_))
