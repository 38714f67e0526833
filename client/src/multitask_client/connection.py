"""What both clients do around a call, blocking or not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import grpc.aio

from multitask_client import messages
from multitask_client.errors import Unavailable, from_rpc_error
from multitask_client.proto import gateway_pb2_grpc


class Connection:
    """A channel to the gateway at ``address``, until it is closed; ``timeout_s`` is that of calls without their own."""

    def __init__(self, address: str, channel: grpc.Channel | grpc.aio.Channel, timeout_s: float) -> None:
        self.address = address
        self._timeout_s = timeout_s
        self._open_stub = gateway_pb2_grpc.TaskGatewayStub(channel)  # type: ignore[no-untyped-call]
        self._closed = False

    def _stub(self) -> gateway_pb2_grpc.TaskGatewayStub:
        if self._closed:
            raise Unavailable("the client is closed; make a new one", status=grpc.StatusCode.UNAVAILABLE)
        return self._open_stub

    def _timeout(self, timeout_s: float | None) -> float | None:
        return messages.timeout(self._timeout_s if timeout_s is None else timeout_s)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Errors of gRPC leave as `GatewayError`."""
        try:
            yield
        except grpc.RpcError as error:
            raise from_rpc_error(error, self.address) from error
