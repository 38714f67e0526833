"""``TaskGateway``: finds the task, checks the request, calls a Triton server; if that is unavailable, a second one."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import grpc
import grpc.aio

from multitask_api.routes import Backend
from multitask_client.proto import gateway_pb2, gateway_pb2_grpc
from multitask_serving.gateway.access.allowed_routes import AllowedRoutes
from multitask_serving.gateway.backends import Backends
from multitask_serving.gateway.errors import DeadlineExceeded, InternalError, NoBackend, StatusError
from multitask_serving.gateway.routes import Route, RouteTable, choose_backend
from multitask_serving.gateway.stats import Stats
from multitask_serving.gateway.validation import check_fields, check_size, wire_options
from multitask_serving.triton.client import InferResponse
from multitask_serving.triton.wire import Options

REVISION_METADATA = "mtm-revision"
DEFAULT_TIMEOUT_S = 60.0
"""For callers that set no deadline, so that no call waits for ever."""

_ATTEMPTS = 2
_TYPES = {
    "Classification": gateway_pb2.TASK_TYPE_CLASSIFICATION,
    "Generation": gateway_pb2.TASK_TYPE_GENERATION,
}

Context = grpc.aio.ServicerContext[Any, Any]


class TaskGateway(gateway_pb2_grpc.TaskGatewayServicer):
    """The service.

    ``routes`` returns the current table, as far as the caller may use it; ``draw`` returns a random number in [0, 1)
    that chooses a server.
    """

    def __init__(
        self,
        routes: Callable[[], RouteTable | AllowedRoutes],
        backends: Backends,
        stats: Stats,
        draw: Callable[[], float],
    ) -> None:
        self._routes = routes
        self._backends = backends
        self._stats = stats
        self._draw = draw

    async def Predict(  # noqa: N802 - gRPC's name
        self, request: gateway_pb2.PredictRequest, context: Context
    ) -> gateway_pb2.PredictResponse:
        """The complete answer."""
        check_size(request)
        route = self._routes().resolve(request.task)
        message = None
        responses = self._infer_with_retry(route, request, context, stream=False)
        async with aclosing(responses):
            async for response in responses:
                message = predict_response(route, response, response.text)
        if message is None:
            raise InternalError("the task's server sent no response")
        return message

    async def PredictStream(  # noqa: N802 - gRPC's name
        self, request: gateway_pb2.PredictRequest, context: Context
    ) -> AsyncIterator[gateway_pb2.PredictStreamResponse]:
        """The answer in pieces, as it is generated."""
        check_size(request)
        route = self._routes().resolve(request.task)
        text = ""
        responses = self._infer_with_retry(route, request, context, stream=True)
        async with aclosing(responses):
            async for response in responses:
                text += response.text
                message = gateway_pb2.PredictStreamResponse(delta=response.text)
                if response.labels or response.finish_reason:
                    message.final.CopyFrom(predict_response(route, response, text))
                yield message

    async def ListTasks(  # noqa: N802 - gRPC's name
        self, request: gateway_pb2.ListTasksRequest, context: Context
    ) -> gateway_pb2.ListTasksResponse:
        """All tasks that the caller may call, sorted by name."""
        routes = sorted(self._routes().routes, key=lambda route: route.name)
        return gateway_pb2.ListTasksResponse(tasks=[task_message(route) for route in routes])

    async def GetTask(self, request: gateway_pb2.GetTaskRequest, context: Context) -> gateway_pb2.Task:  # noqa: N802
        """One task."""
        return task_message(self._routes().resolve(request.task))

    async def _infer_with_retry(
        self, route: Route, request: gateway_pb2.PredictRequest, context: Context, *, stream: bool
    ) -> AsyncGenerator[InferResponse, None]:
        """One Triton server's responses. If it is unavailable before its first response, another server is tried."""
        check_fields(route.task, request.fields)
        options = wire_options(route.task, request, stream=stream)
        deadline = time.monotonic() + _timeout(context)
        revision = _pinned_revision(context)
        tried: list[Backend] = []
        last: NoBackend | None = None
        while len(tried) < _ATTEMPTS:
            try:
                backend = choose_backend(route, self._draw(), revision=revision, tried=tried)
            except NoBackend as none_left:
                raise last or none_left from None
            tried.append(backend)
            started = False
            try:
                async with aclosing(self._infer(route, backend, request, options, deadline)) as responses:
                    async for response in responses:
                        started = True
                        yield response
                return
            except NoBackend as error:
                if started:
                    raise
                last = error
        if last is not None:
            raise last

    async def _infer(
        self,
        route: Route,
        backend: Backend,
        request: gateway_pb2.PredictRequest,
        options: Options,
        deadline: float,
    ) -> AsyncGenerator[InferResponse, None]:
        """One Triton server's responses; the request is counted in the statistics."""
        started = time.monotonic()
        status = "CANCELLED"
        if started >= deadline:
            raise DeadlineExceeded("the deadline passed before the request was sent to a server; allow more time")
        timeout_s = deadline - started
        inference = self._backends.infer(backend, route.task.name, request.fields, options, timeout_s=timeout_s)
        try:
            async with aclosing(inference) as responses:
                async for response in responses:
                    if not options.stream or response.labels or response.finish_reason:
                        status = ""
                    yield response
        except StatusError as error:
            status = error.code.name
            raise
        finally:
            now = time.monotonic()
            if status == "CANCELLED" and now >= deadline:  # at the deadline gRPC cancels before Triton reports
                status = "DEADLINE_EXCEEDED"
            self._stats.count(route.full_name, backend.revision, seconds=now - started, error=status or None)


def predict_response(route: Route, last: InferResponse, text: str) -> gateway_pb2.PredictResponse:
    """The complete answer ``text`` as a message. ``last`` is the server's last response; the revision comes from it."""
    response = gateway_pb2.PredictResponse(
        task=route.full_name,
        finish_reason=last.finish_reason,
        served_by=route.task.served_by,
        revision=last.revision,
    )
    if route.task.type == "Classification":
        response.label = text
        for label, score in zip(last.labels, last.scores, strict=True):
            response.scores.add(label=label, score=score)
    else:
        response.text = text
    return response


def task_message(route: Route) -> gateway_pb2.Task:
    """The description of a task for callers."""
    task = route.task
    return gateway_pb2.Task(
        name=route.name,
        full_name=route.full_name,
        type=_TYPES[task.type],
        fields=task.fields,
        labels=task.labels,
        served_by=task.served_by,
        backends=[gateway_pb2.Backend(revision=backend.revision, weight=backend.weight) for backend in task.backends],
    )


def _timeout(context: Context) -> float:
    remaining = context.time_remaining()
    return DEFAULT_TIMEOUT_S if remaining is None else float(remaining)


def _pinned_revision(context: Context) -> str:
    for key, value in context.invocation_metadata() or ():
        if key == REVISION_METADATA:
            return value if isinstance(value, str) else value.decode()
    return ""
