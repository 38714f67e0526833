"""``TaskGateway``: finds the task, checks the request, asks a backend, and one other backend if that was not there."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import grpc
import grpc.aio

from multitask_api.routes import Backend
from multitask_serving.gateway.faults import DeadlineExceeded, Fault, InternalFault, NoBackend
from multitask_serving.gateway.requests import check_fields, check_size, options_of
from multitask_serving.gateway.routes import Route, RouteTable, choose_backend
from multitask_serving.gateway.stats import Stats
from multitask_serving.gateway.triton import Backends
from multitask_serving.proto import gateway_pb2, gateway_pb2_grpc
from multitask_serving.triton.client import Answer
from multitask_serving.triton.wire import Options

REVISION_METADATA = "mtm-revision"
DEFAULT_TIMEOUT_S = 60.0
"""For callers that set no deadline: nothing may wait for ever."""

_ATTEMPTS = 2
_TYPES = {
    "Classification": gateway_pb2.TASK_TYPE_CLASSIFICATION,
    "Generation": gateway_pb2.TASK_TYPE_GENERATION,
}

Context = grpc.aio.ServicerContext[Any, Any]


class TaskGateway(gateway_pb2_grpc.TaskGatewayServicer):
    """The service. ``routes`` gives the table in force now; ``draw`` a number in [0, 1) for the choice of a backend."""

    def __init__(
        self, routes: Callable[[], RouteTable], backends: Backends, stats: Stats, draw: Callable[[], float]
    ) -> None:
        self._routes = routes
        self._backends = backends
        self._stats = stats
        self._draw = draw

    async def Predict(  # noqa: N802 - gRPC's name
        self, request: gateway_pb2.PredictRequest, context: Context
    ) -> gateway_pb2.PredictResponse:
        """One whole answer."""
        check_size(request)
        route = self._routes().resolve(request.task)
        response = None
        answers = self._answers(route, request, context, stream=False)
        async with aclosing(answers):
            async for answer in answers:
                response = to_response(route, answer, answer.text)
        if response is None:
            raise InternalFault("the task's server gave no answer")
        return response

    async def PredictStream(  # noqa: N802 - gRPC's name
        self, request: gateway_pb2.PredictRequest, context: Context
    ) -> AsyncIterator[gateway_pb2.PredictStreamResponse]:
        """The answer as it is made."""
        check_size(request)
        route = self._routes().resolve(request.task)
        text = ""
        answers = self._answers(route, request, context, stream=True)
        async with aclosing(answers):
            async for answer in answers:
                text += answer.text
                response = gateway_pb2.PredictStreamResponse(delta=answer.text)
                if answer.labels or answer.finish_reason:
                    response.final.CopyFrom(to_response(route, answer, text))
                yield response

    async def ListTasks(  # noqa: N802 - gRPC's name
        self, request: gateway_pb2.ListTasksRequest, context: Context
    ) -> gateway_pb2.ListTasksResponse:
        """Every task, by name."""
        routes = sorted(self._routes().routes, key=lambda route: route.name)
        return gateway_pb2.ListTasksResponse(tasks=[describe(route) for route in routes])

    async def GetTask(self, request: gateway_pb2.GetTaskRequest, context: Context) -> gateway_pb2.Task:  # noqa: N802
        """One task."""
        return describe(self._routes().resolve(request.task))

    async def _answers(
        self, route: Route, request: gateway_pb2.PredictRequest, context: Context, *, stream: bool
    ) -> AsyncGenerator[Answer, None]:
        """The answers of one backend. Another one is asked only while nothing was answered."""
        check_fields(route.task, request.fields)
        options = options_of(route.task, request, stream=stream)
        deadline = time.monotonic() + _timeout(context)
        revision = _pinned(context)
        tried: list[Backend] = []
        last: NoBackend | None = None
        while len(tried) < _ATTEMPTS:
            try:
                backend = choose_backend(route, self._draw(), revision=revision, tried=tried)
            except NoBackend as none_left:
                raise last or none_left from None
            tried.append(backend)
            answered = False
            try:
                async with aclosing(self._ask(route, backend, request, options, deadline)) as answers:
                    async for answer in answers:
                        answered = True
                        yield answer
                return
            except NoBackend as fault:
                if answered:
                    raise
                last = fault
        if last is not None:
            raise last

    async def _ask(
        self,
        route: Route,
        backend: Backend,
        request: gateway_pb2.PredictRequest,
        options: Options,
        deadline: float,
    ) -> AsyncGenerator[Answer, None]:
        """One backend's answers, counted."""
        started = time.monotonic()
        status = "CANCELLED"
        if started >= deadline:
            raise DeadlineExceeded("the deadline had passed before a server was asked; allow more time")
        asked = self._backends.ask(backend, route.task.name, request.fields, options, timeout_s=deadline - started)
        try:
            async with aclosing(asked) as answers:
                async for answer in answers:
                    if not options.stream or answer.labels or answer.finish_reason:
                        status = ""
                    yield answer
        except Fault as fault:
            status = fault.code.name
            raise
        finally:
            now = time.monotonic()
            if status == "CANCELLED" and now >= deadline:  # gRPC cancels a call at its deadline, before Triton says so
                status = "DEADLINE_EXCEEDED"
            self._stats.count(route.full_name, backend.revision, seconds=now - started, error=status or None)


def to_response(route: Route, answer: Answer, text: str) -> gateway_pb2.PredictResponse:
    """The whole answer, of which ``answer`` was the last part. Its revision is what the server says it serves."""
    response = gateway_pb2.PredictResponse(
        task=route.full_name,
        finish_reason=answer.finish_reason,
        served_by=route.task.served_by,
        revision=answer.revision,
    )
    if route.task.type == "Classification":
        response.label = text
        for label, score in zip(answer.labels, answer.scores, strict=True):
            response.scores.add(label=label, score=score)
    else:
        response.text = text
    return response


def describe(route: Route) -> gateway_pb2.Task:
    """What a caller may know about a task."""
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


def _pinned(context: Context) -> str:
    for key, value in context.invocation_metadata() or ():
        if key == REVISION_METADATA:
            return value if isinstance(value, str) else value.decode()
    return ""
