"""Checks a request against the route table before it goes to a Triton server. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from multitask_api.errors import Problem
from multitask_api.routes import RoutedTask
from multitask_client.proto import gateway_pb2
from multitask_serving.gateway.errors import InvalidRequest
from multitask_serving.triton.wire import Options, SamplingValue

MAX_REQUEST_BYTES = 4 * 2**20
"""The same as gRPC's default limit. gRPC would answer RESOURCE_EXHAUSTED, and callers would retry in vain."""

_MAX_MATCHED_LENGTH = 256
_MAX_REPORTED = 16
"""Limits on suggestions: comparing names takes time that grows with their number and length, and blocks other calls."""


def check_size(request: gateway_pb2.PredictRequest) -> None:
    """Raise `InvalidRequest` if the request is larger than `MAX_REQUEST_BYTES`. The first check of a request."""
    size = request.ByteSize()
    if size > MAX_REQUEST_BYTES:
        problem = f"the request has {size} bytes, more than the {MAX_REQUEST_BYTES} allowed; shorten its texts"
        raise InvalidRequest([Problem("fields", problem)])


def check_fields(task: RoutedTask, fields: Mapping[str, str]) -> None:
    """Raise `InvalidRequest` with all fields that are missing and all that the task does not have."""
    missing = [name for name in task.fields if name not in fields]
    extra = [name for name in fields if name not in task.fields]
    takes = f"task {task.name!r} takes {', '.join(task.fields) or 'no fields'}"
    problems = [Problem(f"fields.{name}", f"is missing; {takes}") for name in missing]
    for name in extra[:_MAX_REPORTED]:
        near = difflib.get_close_matches(name[:_MAX_MATCHED_LENGTH], missing or task.fields, n=1, cutoff=0.6)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        problems.append(Problem(f"fields.{name}", f"is not a field of this task; {takes}{hint}"))
    if len(extra) > _MAX_REPORTED:
        problems.append(Problem("fields", f"{len(extra) - _MAX_REPORTED} more are not fields of this task; {takes}"))
    if problems:
        raise InvalidRequest(problems)


def wire_options(task: RoutedTask, request: gateway_pb2.PredictRequest, *, stream: bool) -> Options:
    """The options for the Triton server. Raises `InvalidRequest` if a classification request has sampling options."""
    if task.type == "Classification":
        if request.HasField("sampling"):
            raise InvalidRequest(
                [Problem("sampling", f"task {task.name!r} is a classification task; leave sampling out")]
            )
        return Options(stream=stream)
    sampling: dict[str, SamplingValue] = {}
    for name in ("max_new_tokens", "temperature", "top_p", "seed"):
        if request.sampling.HasField(name):
            sampling[name] = getattr(request.sampling, name)
    if request.sampling.stop:
        sampling["stop"] = tuple(request.sampling.stop)
    return Options(stream=stream, sampling=sampling)
