"""Every call but a health check has a caller, or ends with UNAUTHENTICATED, whatever its kind."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health

from multitask_serving.gateway.access.access import Access, credentials_of, current_caller
from multitask_serving.gateway.errors import StatusError, to_status

Context = grpc.aio.ServicerContext[Any, Any]

_OPEN = f"/{health.SERVICE_NAME}/"
"""Load balancers check it without credentials; it tells nothing but whether the gateway serves."""


class AccessInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """Sets `current_caller` for the handler of a call. It comes before all other interceptors."""

    def __init__(self, access: Access) -> None:
        self._access = access

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        """Wrap the handler of one call, of any of the four kinds."""
        handler = await continuation(details)
        if handler is None or details.method.startswith(_OPEN):
            return handler
        wrap = self._stream if handler.response_streaming else self._unary
        kind = f"{_word(handler.request_streaming)}_{_word(handler.response_streaming)}"
        make = getattr(grpc, f"{kind}_rpc_method_handler")
        return make(wrap(getattr(handler, kind)), handler.request_deserializer, handler.response_serializer)

    def _unary(self, inner: Callable[[Any, Context], Awaitable[Any]]) -> Callable[[Any, Context], Awaitable[Any]]:
        async def handle(request: Any, context: Context) -> Any:
            await self._authenticate(context)
            return await inner(request, context)

        return handle

    def _stream(
        self, inner: Callable[[Any, Context], AsyncIterator[Any]]
    ) -> Callable[[Any, Context], AsyncIterator[Any]]:
        async def handle(request: Any, context: Context) -> AsyncIterator[Any]:
            await self._authenticate(context)
            async for message in inner(request, context):
                yield message

        return handle

    async def _authenticate(self, context: Context) -> None:
        """Set the caller, or end the call."""
        try:
            credentials = credentials_of(context.invocation_metadata() or (), context.auth_context())
            current_caller.set(await self._access.caller(credentials))
        except StatusError as error:
            await context.abort_with_status(to_status(error))  # type: ignore[attr-defined]  # the stubs lack it


def _word(streaming: bool) -> str:
    return "stream" if streaming else "unary"
