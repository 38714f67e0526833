"""Turns exceptions into gRPC statuses. No other module does."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from multitask_api.errors import Problem
from multitask_serving.gateway.errors import InternalError, InvalidRequest, StatusError, to_status

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]


class ErrorInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """Ends a call of ``service`` with the status of its `StatusError`, or with INTERNAL for any other exception.

    Requests are parsed here, those of health and reflection too: bytes that are not the method's message end with
    INVALID_ARGUMENT. gRPC would say UNKNOWN, with the name of a Python class, and log a traceback.
    """

    def __init__(self, service: str) -> None:
        self._prefix = f"/{service}/"

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        """Wrap the handler of a call."""
        handler = await continuation(details)
        if handler is None or (handler.request_streaming and not handler.response_streaming):
            return handler  # there is no method with many requests and one response
        if handler.request_streaming:
            many = _many(handler.stream_stream, handler.request_deserializer)
            return grpc.stream_stream_rpc_method_handler(many, None, handler.response_serializer)
        make = (
            grpc.unary_stream_rpc_method_handler if handler.response_streaming else grpc.unary_unary_rpc_method_handler
        )
        inner = handler.unary_stream if handler.response_streaming else handler.unary_unary
        if details.method.startswith(self._prefix):
            inner = (_stream if handler.response_streaming else _unary)(inner, handler.request_deserializer)
        else:
            inner = _other_service(inner, handler.request_deserializer)
        return make(inner, request_deserializer=None, response_serializer=handler.response_serializer)


def _unary(
    inner: Callable[[Any, Context], Awaitable[Any]], parse: Callable[[bytes], Any]
) -> Callable[[bytes, Context], Awaitable[Any]]:
    async def handle(data: bytes, context: Context) -> Any:
        try:
            return await inner(_parsed(data, parse), context)
        except Exception as error:  # noqa: BLE001 - the boundary: callers must not get unmapped errors
            await _abort(context, error)

    return handle


def _stream(
    inner: Callable[[Any, Context], AsyncIterator[Any]], parse: Callable[[bytes], Any]
) -> Callable[[bytes, Context], AsyncIterator[Any]]:
    async def handle(data: bytes, context: Context) -> AsyncIterator[Any]:
        try:
            async for message in inner(_parsed(data, parse), context):
                yield message
        except Exception as error:  # noqa: BLE001 - the boundary: callers must not get unmapped errors
            await _abort(context, error)

    return handle


def _other_service(
    inner: Callable[[Any, Context], Awaitable[Any]], parse: Callable[[bytes], Any]
) -> Callable[[bytes, Context], Awaitable[Any]]:
    """A service that sets its statuses itself: health."""

    async def handle(data: bytes, context: Context) -> Any:
        try:
            request = _parsed(data, parse)
        except InvalidRequest as error:
            await _abort(context, error)
        return await inner(request, context)

    return handle


def _many(
    inner: Callable[[AsyncIterator[Any], Context], AsyncIterator[Any]], parse: Callable[[bytes], Any]
) -> Callable[[AsyncIterator[bytes], Context], AsyncIterator[Any]]:
    """A service of many requests and responses that sets its statuses itself: reflection."""

    async def handle(requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[Any]:
        try:
            async for message in inner((_parsed(data, parse) async for data in requests), context):
                yield message
        except InvalidRequest as error:
            await _abort(context, error)

    return handle


def _parsed(data: bytes, parse: Callable[[bytes], Any]) -> Any:
    try:
        return parse(data)
    except DecodeError as error:
        problem = (
            "the bytes are not this method's message; build the client from the gateway's proto, or use reflection"
        )
        raise InvalidRequest([Problem("", problem)]) from error


async def _abort(context: Context, error: Exception) -> None:
    await context.abort_with_status(to_status(_to_status_error(error)))  # type: ignore[attr-defined] # the stubs lack it


def _to_status_error(error: Exception) -> StatusError:
    if isinstance(error, StatusError):
        if isinstance(error, InternalError):
            log.error("a request failed: %s", error)
        return error
    log.error("a request failed with an unexpected error", exc_info=error)
    return InternalError("the gateway failed; see its log")
