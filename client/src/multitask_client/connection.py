"""What both clients do around a call, blocking or not: TLS, metadata, errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import grpc
import grpc.aio

from multitask_client import messages
from multitask_client.errors import Unavailable, from_rpc_error
from multitask_client.proto import gateway_pb2_grpc

ApiKey = str | Callable[[], str]
"""A key, or what gives the present one."""


@dataclass(frozen=True, slots=True)
class Tls:
    """How a connection is encrypted. All paths are of PEM files.

    ``ca``: the authorities that the gateway's certificate is checked against; None: those that gRPC brings along.
    ``certificate`` and ``key``: the client's own, for a gateway that knows callers by their certificates.
    ``server_name``: the name in the gateway's certificate, if it is not the host of the address.
    """

    ca: str | PathLike[str] | None = None
    certificate: str | PathLike[str] | None = None
    key: str | PathLike[str] | None = None
    server_name: str | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """For gRPC. Raises `InvalidRequest` for a file that cannot be read."""
        if (self.certificate is None) != (self.key is None):
            messages.check({"tls": "has only one of certificate and key"})
        return grpc.ssl_channel_credentials(_read(self.ca), _read(self.key), _read(self.certificate))

    def channel_options(self) -> messages.ChannelOptions:
        """Options of the channel."""
        return (("grpc.ssl_target_name_override", self.server_name),) if self.server_name else ()


def _read(path: str | PathLike[str] | None) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        messages.check({"tls": f"{path} cannot be read: {error.strerror}"})
        raise


class Connection:
    """A channel to the gateway at ``address``, until it is closed; ``timeout_s`` is that of calls without their own."""

    def __init__(
        self,
        address: str,
        channel: grpc.Channel | grpc.aio.Channel,
        timeout_s: float,
        api_key: ApiKey | None,
        tls: Tls | bool,
    ) -> None:
        self.address = address
        self._timeout_s = timeout_s
        self._api_key = api_key
        self._is_encrypted = bool(tls)
        self._has_credentials = api_key is not None or (isinstance(tls, Tls) and tls.certificate is not None)
        if not callable(api_key):
            messages.authorization(api_key)
        self._open_stub = gateway_pb2_grpc.TaskGatewayStub(channel)  # type: ignore[no-untyped-call]
        self._closed = False

    def _stub(self) -> gateway_pb2_grpc.TaskGatewayStub:
        if self._closed:
            raise Unavailable("the client is closed; make a new one", status=grpc.StatusCode.UNAVAILABLE)
        return self._open_stub

    def _timeout(self, timeout_s: float | None) -> float | None:
        return messages.timeout(self._timeout_s if timeout_s is None else timeout_s)

    def _metadata(self, revision: str | None = None, routing_key: str | None = None) -> tuple[tuple[str, str], ...]:
        api_key = self._api_key() if callable(self._api_key) else self._api_key
        return (*messages.authorization(api_key), *messages.metadata(revision, routing_key))

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Errors of gRPC leave as `GatewayError`."""
        try:
            yield
        except grpc.RpcError as error:
            raise from_rpc_error(
                error, self.address, is_encrypted=self._is_encrypted, has_credentials=self._has_credentials
            ) from error
