"""The blocking client."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import TracebackType

import grpc

from multitask_client import messages
from multitask_client.connection import Connection
from multitask_client.messages import DEFAULT_TIMEOUT_S, Prediction, Sampling, Task
from multitask_client.proto import gateway_pb2


class TaskClient(Connection):
    """A connection to a gateway, for use from any thread::

        with TaskClient("127.0.0.1:8081") as client:
            client.predict("urgency", text="My card was charged twice").label

    Every call raises `GatewayError`. ``timeout_s`` limits a whole call, unless the call has a timeout of its own.
    """

    def __init__(self, address: str, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        self._channel = grpc.insecure_channel(address, options=messages.channel_options(address))
        super().__init__(address, self._channel, timeout_s)

    def predict(
        self,
        task: str,
        fields: Mapping[str, str] | None = None,
        /,
        *,
        sampling: Sampling | None = None,
        revision: str | None = None,
        timeout_s: float | None = None,
        **more_fields: str,
    ) -> Prediction:
        """One answer. Fields are keyword arguments; the mapping ``fields`` takes those with the name of a parameter."""
        request = messages.predict_request(task, fields, more_fields, sampling)
        with self._errors():
            response = self._stub().Predict(
                request, timeout=self._timeout(timeout_s), metadata=messages.metadata(revision)
            )
        return messages.prediction(response)

    def predict_stream(
        self,
        task: str,
        fields: Mapping[str, str] | None = None,
        /,
        *,
        sampling: Sampling | None = None,
        revision: str | None = None,
        timeout_s: float | None = None,
        **more_fields: str,
    ) -> Iterator[str | Prediction]:
        """The text in pieces as it is generated, then the whole `Prediction`. Closing the iterator cancels the call."""
        request = messages.predict_request(task, fields, more_fields, sampling)
        call = self._stub().PredictStream(
            request, timeout=self._timeout(timeout_s), metadata=messages.metadata(revision)
        )
        try:
            with self._errors():
                for message in call:
                    if message.delta:
                        yield message.delta
                    if message.HasField("final"):
                        yield messages.prediction(message.final)
        finally:
            call.cancel()

    def tasks(self, *, timeout_s: float | None = None) -> list[Task]:
        """All tasks that the gateway serves, sorted by name."""
        with self._errors():
            response = self._stub().ListTasks(gateway_pb2.ListTasksRequest(), timeout=self._timeout(timeout_s))
        return [messages.task(message) for message in response.tasks]

    def task(self, name: str, *, timeout_s: float | None = None) -> Task:
        """One task."""
        with self._errors():
            return messages.task(self._stub().GetTask(messages.task_request(name), timeout=self._timeout(timeout_s)))

    def close(self) -> None:
        """Close the connection. Later calls raise `Unavailable`."""
        self._closed = True
        self._channel.close()

    def __enter__(self) -> TaskClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
