"""Turns exceptions into gRPC statuses. No other module does."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

from multitask_serving.gateway.errors import InternalError, StatusError, to_status

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]


class ErrorInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """Ends a call of ``service`` with the status of its `StatusError`, or with INTERNAL for any other exception."""

    def __init__(self, service: str) -> None:
        self._prefix = f"/{service}/"

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        """Wrap the handlers of our own service; health and reflection set their statuses themselves."""
        handler = await continuation(details)
        if handler is None or not details.method.startswith(self._prefix):
            return handler
        make = (
            grpc.unary_stream_rpc_method_handler if handler.response_streaming else grpc.unary_unary_rpc_method_handler
        )
        wrap = _stream if handler.response_streaming else _unary
        inner = handler.unary_stream if handler.response_streaming else handler.unary_unary
        return make(
            wrap(inner),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )


def _unary(inner: Callable[[Any, Context], Awaitable[Any]]) -> Callable[[Any, Context], Awaitable[Any]]:
    async def handle(request: Any, context: Context) -> Any:
        try:
            return await inner(request, context)
        except Exception as error:  # noqa: BLE001 - the boundary: callers must not get unmapped errors
            await _abort(context, error)

    return handle


def _stream(inner: Callable[[Any, Context], AsyncIterator[Any]]) -> Callable[[Any, Context], AsyncIterator[Any]]:
    async def handle(request: Any, context: Context) -> AsyncIterator[Any]:
        try:
            async for message in inner(request, context):
                yield message
        except Exception as error:  # noqa: BLE001 - the boundary: callers must not get unmapped errors
            await _abort(context, error)

    return handle


async def _abort(context: Context, error: Exception) -> None:
    await context.abort_with_status(to_status(_to_status_error(error)))  # type: ignore[attr-defined] # the stubs lack it


def _to_status_error(error: Exception) -> StatusError:
    if isinstance(error, StatusError):
        if isinstance(error, InternalError):
            log.error("a request failed: %s", error)
        return error
    log.error("a request failed with an unexpected error", exc_info=error)
    return InternalError("the gateway failed; see its log")
