"""Checks a request against the route table, before any backend is asked. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from multitask_api.errors import Problem
from multitask_api.routes import RoutedTask
from multitask_serving.gateway.faults import InvalidRequest
from multitask_serving.proto import gateway_pb2
from multitask_serving.triton.wire import Options, Setting

MAX_REQUEST_BYTES = 4 * 2**20
"""gRPC's own default. Beyond it gRPC says RESOURCE_EXHAUSTED, and callers would try again; we say what is wrong."""

_LONGEST_LIKENESS = 256
_MOST_NAMED = 16
"""Comparing names takes time with their number and length, and every other call waits for it."""


def check_size(request: gateway_pb2.PredictRequest) -> None:
    """Raise `InvalidRequest` for more than `MAX_REQUEST_BYTES`, before anything looks into the request."""
    size = request.ByteSize()
    if size > MAX_REQUEST_BYTES:
        problem = f"the request has {size} bytes, more than the {MAX_REQUEST_BYTES} allowed; shorten its texts"
        raise InvalidRequest([Problem("fields", problem)])


def check_fields(task: RoutedTask, fields: Mapping[str, str]) -> None:
    """Raise `InvalidRequest`, naming the fields that are missing and those that the task does not have."""
    missing = [name for name in task.fields if name not in fields]
    extra = [name for name in fields if name not in task.fields]
    takes = f"task {task.name!r} takes {', '.join(task.fields) or 'no fields'}"
    problems = [Problem(f"fields.{name}", f"is missing; {takes}") for name in missing]
    for name in extra[:_MOST_NAMED]:
        near = difflib.get_close_matches(name[:_LONGEST_LIKENESS], missing or task.fields, n=1, cutoff=0.6)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        problems.append(Problem(f"fields.{name}", f"is not a field of this task; {takes}{hint}"))
    if len(extra) > _MOST_NAMED:
        problems.append(Problem("fields", f"{len(extra) - _MOST_NAMED} more are not fields of this task; {takes}"))
    if problems:
        raise InvalidRequest(problems)


def options_of(task: RoutedTask, request: gateway_pb2.PredictRequest, *, stream: bool) -> Options:
    """How the backend shall answer. Raises `InvalidRequest` for sampling of a classification task."""
    if task.type == "Classification":
        if request.HasField("sampling"):
            raise InvalidRequest([Problem("sampling", f"task {task.name!r} gives a label; leave sampling out")])
        return Options(stream=stream)
    sampling: dict[str, Setting] = {}
    for name in ("max_new_tokens", "temperature", "top_p", "seed"):
        if request.sampling.HasField(name):
            sampling[name] = getattr(request.sampling, name)
    if request.sampling.stop:
        sampling["stop"] = tuple(request.sampling.stop)
    return Options(stream=stream, sampling=sampling)
