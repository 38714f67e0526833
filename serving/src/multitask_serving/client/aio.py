"""The client for asyncio."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from types import TracebackType

import grpc.aio

from multitask_serving.client import answers
from multitask_serving.client.answers import DEFAULT_TIMEOUT_S, Prediction, Sampling, Task
from multitask_serving.client.errors import from_rpc
from multitask_serving.proto import gateway_pb2, gateway_pb2_grpc


class AsyncTaskClient:
    """A connection to a gateway, for use in one event loop::

        async with AsyncTaskClient("127.0.0.1:8081") as client:
            (await client.predict("urgency", text="My card was charged twice")).label

    Every call raises `GatewayError`. ``timeout_s`` holds for a whole call, unless the call has one of its own.
    """

    def __init__(self, address: str, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        self.address = address
        self._timeout_s = timeout_s
        self._channel = grpc.aio.insecure_channel(address, options=answers.channel_options(address))
        self._stub = gateway_pb2_grpc.TaskGatewayStub(self._channel)  # type: ignore[no-untyped-call]

    async def predict(
        self,
        task: str,
        fields: Mapping[str, str] | None = None,
        /,
        *,
        sampling: Sampling | None = None,
        revision: str | None = None,
        timeout_s: float | None = None,
        **named: str,
    ) -> Prediction:
        """One answer. Fields go by name; those whose names are taken here go into the mapping ``fields``."""
        request = answers.predict_request(task, fields, named, sampling)
        try:
            response = await self._stub.Predict(
                request, timeout=self._time(timeout_s), metadata=answers.metadata(revision)
            )
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error, self.address) from error
        return answers.prediction(response)

    async def predict_stream(
        self,
        task: str,
        fields: Mapping[str, str] | None = None,
        /,
        *,
        sampling: Sampling | None = None,
        revision: str | None = None,
        timeout_s: float | None = None,
        **named: str,
    ) -> AsyncIterator[str | Prediction]:
        """The text piece by piece as it is made, and last the whole `Prediction`. Closing it early cancels the call."""
        request = answers.predict_request(task, fields, named, sampling)
        call = self._stub.PredictStream(request, timeout=self._time(timeout_s), metadata=answers.metadata(revision))
        try:
            async for message in call:
                if message.delta:
                    yield message.delta
                if message.HasField("final"):
                    yield answers.prediction(message.final)
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error, self.address) from error
        finally:
            call.cancel()

    async def tasks(self, *, timeout_s: float | None = None) -> list[Task]:
        """Every task the gateway serves, by name."""
        try:
            response = await self._stub.ListTasks(gateway_pb2.ListTasksRequest(), timeout=self._time(timeout_s))
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error, self.address) from error
        return [answers.task(message) for message in response.tasks]

    async def task(self, name: str, *, timeout_s: float | None = None) -> Task:
        """One task."""
        try:
            return answers.task(
                await self._stub.GetTask(gateway_pb2.GetTaskRequest(task=name), timeout=self._time(timeout_s))
            )
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error, self.address) from error

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close(None)

    async def __aenter__(self) -> AsyncTaskClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _time(self, timeout_s: float | None) -> float:
        return self._timeout_s if timeout_s is None else timeout_s
