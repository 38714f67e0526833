"""``TaskGateway``: finds the task, checks the request, and passes on what a Triton server answers."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import grpc
import grpc.aio

from multitask_client.proto import gateway_pb2, gateway_pb2_grpc
from multitask_serving.gateway.access.allowed_routes import AllowedRoutes
from multitask_serving.gateway.choice import Preference
from multitask_serving.gateway.dispatch import Answer, Dispatcher
from multitask_serving.gateway.errors import InternalError, LabelsOff
from multitask_serving.gateway.labels.reports import LabelReports
from multitask_serving.gateway.routes import Route, RouteTable
from multitask_serving.gateway.validation import check_fields, check_size, wire_options
from multitask_serving.triton.client import InferResponse

REVISION_METADATA = "mtm-revision"
KEY_METADATA = "mtm-key"
"""Requests of one key get one revision: a caller of a conversation, for example, names it."""
DEFAULT_TIMEOUT_S = 60.0
"""For callers that set no deadline, so that no call waits for ever."""

_TYPES = {
    "Classification": gateway_pb2.TASK_TYPE_CLASSIFICATION,
    "Generation": gateway_pb2.TASK_TYPE_GENERATION,
}

Context = grpc.aio.ServicerContext[Any, Any]


class TaskGateway(gateway_pb2_grpc.TaskGatewayServicer):
    """The service. ``routes`` returns the current table, as far as the caller may use it.

    Without ``labels`` it takes no labels, and answers have no ids.
    """

    def __init__(
        self,
        routes: Callable[[], RouteTable | AllowedRoutes],
        dispatcher: Dispatcher,
        labels: LabelReports | None = None,
    ) -> None:
        self._routes = routes
        self._dispatcher = dispatcher
        self._labels = labels

    async def Predict(  # noqa: N802 - gRPC's name
        self, request: gateway_pb2.PredictRequest, context: Context
    ) -> gateway_pb2.PredictResponse:
        """The complete answer."""
        check_size(request)
        route = self._routes().resolve(request.task)
        message = None
        responses = self._answers(route, request, context, stream=False)
        async with aclosing(responses):
            async for answer in responses:
                message = self._response(route, answer, answer.response.text, context)
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
        responses = self._answers(route, request, context, stream=True)
        async with aclosing(responses):
            async for answer in responses:
                response = answer.response
                text += response.text
                message = gateway_pb2.PredictStreamResponse(delta=response.text)
                if response.labels or response.finish_reason:
                    message.final.CopyFrom(self._response(route, answer, text, context))
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

    async def ReportLabel(  # noqa: N802 - gRPC's name
        self, request: gateway_pb2.ReportLabelRequest, context: Context
    ) -> gateway_pb2.ReportLabelResponse:
        """The true label of an answer."""
        if self._labels is None:
            raise LabelsOff
        counted = self._labels.report(request.request_id, request.label, self._routes().resolve)
        return gateway_pb2.ReportLabelResponse(counted=counted)

    def _response(self, route: Route, last: Answer, text: str, context: Context) -> gateway_pb2.PredictResponse:
        """The complete answer, with an id if its label may be reported."""
        response, revision = predict_response(route, last.response, text, last.revision), last.revision
        response.device = last.device
        if self._labels is not None and response.HasField("label"):
            pinned = bool(_preference(context).revision)
            response.request_id = self._labels.request_id(route, revision, text, pinned=pinned)
        return response

    def _answers(
        self, route: Route, request: gateway_pb2.PredictRequest, context: Context, *, stream: bool
    ) -> AsyncGenerator[Answer, None]:
        """The responses of a server, after the request was checked."""
        check_fields(route.task, request.fields)
        options = wire_options(route.task, request, stream=stream)
        return self._dispatcher.answers(
            route, request.fields, options, _preference(context), timeout_s=_timeout(context)
        )


def predict_response(route: Route, last: InferResponse, text: str, revision: str) -> gateway_pb2.PredictResponse:
    """The complete answer ``text`` as a message. ``last`` is the server's last response.

    ``revision`` is the one that the routes name: callers can pin it, and compare it with those of `GetTask`.
    """
    response = gateway_pb2.PredictResponse(
        task=route.full_name,
        finish_reason=last.finish_reason,
        served_by=route.task.served_by,
        revision=revision,
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


def _preference(context: Context) -> Preference:
    metadata = dict(context.invocation_metadata() or ())
    revision, key = metadata.get(REVISION_METADATA, ""), metadata.get(KEY_METADATA, "")
    return Preference(_text(revision), _text(key))


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode(errors="replace")
