"""The blocking client."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import TracebackType

import grpc

from multitask_client import messages
from multitask_client.connection import ApiKey, Connection, Tls
from multitask_client.messages import DEFAULT_TIMEOUT_S, Prediction, Sampling, Task
from multitask_client.proto import gateway_pb2


class TaskClient(Connection):
    """A connection to a gateway, for use from any thread::

        with TaskClient("127.0.0.1:8081") as client:
            client.predict("urgency", text="My card was charged twice").label

    Every call raises `GatewayError`. ``timeout_s`` limits a whole call, unless the call has a timeout of its own.
    ``api_key`` says who calls; for one that changes, such as a token in a file, a function that gives the present one.
    ``tls`` encrypts the connection: True with the certificate authorities that gRPC brings along, a `Tls` with others;
    without it anybody on the way can read the key and the texts.
    """

    def __init__(
        self,
        address: str,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        api_key: ApiKey | None = None,
        tls: Tls | bool = False,
    ) -> None:
        options = messages.channel_options(address)
        if tls:
            tls = Tls() if tls is True else tls
            options = (*options, *tls.channel_options())
            self._channel = grpc.secure_channel(address, tls.credentials(), options=options)
        else:
            self._channel = grpc.insecure_channel(address, options=options)
        super().__init__(address, self._channel, timeout_s, api_key, tls)

    def predict(
        self,
        task: str,
        fields: Mapping[str, str] | None = None,
        /,
        *,
        sampling: Sampling | None = None,
        revision: str | None = None,
        routing_key: str | None = None,
        timeout_s: float | None = None,
        **more_fields: str,
    ) -> Prediction:
        """One answer. Fields are keyword arguments; the mapping ``fields`` takes those with the name of a parameter.

        ``revision``: this one answers. ``routing_key``: one revision answers all requests of a key, also in a rollout.
        """
        request = messages.predict_request(task, fields, more_fields, sampling)
        with self._errors():
            response = self._stub().Predict(
                request, timeout=self._timeout(timeout_s), metadata=self._metadata(revision, routing_key)
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
        routing_key: str | None = None,
        timeout_s: float | None = None,
        **more_fields: str,
    ) -> Iterator[str | Prediction]:
        """The text in pieces as it is generated, then the whole `Prediction`. Closing the iterator cancels the call."""
        request = messages.predict_request(task, fields, more_fields, sampling)
        metadata = self._metadata(revision, routing_key)
        call = self._stub().PredictStream(request, timeout=self._timeout(timeout_s), metadata=metadata)
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
        """All tasks that the caller may call, sorted by name."""
        with self._errors():
            response = self._stub().ListTasks(
                gateway_pb2.ListTasksRequest(), timeout=self._timeout(timeout_s), metadata=self._metadata()
            )
        return [messages.task(message) for message in response.tasks]

    def task(self, name: str, *, timeout_s: float | None = None) -> Task:
        """One task."""
        with self._errors():
            return messages.task(
                self._stub().GetTask(
                    messages.task_request(name), timeout=self._timeout(timeout_s), metadata=self._metadata()
                )
            )

    def report_label(self, request_id: str, label: str, /, *, timeout_s: float | None = None) -> bool:
        """The true label of an answer, once it is known; ``request_id`` is that of the `Prediction`.

        It counts in a rollout. False: it was not needed, because it had come before, the request named its revision,
        or another rollout has begun. Send a report that failed again only if the error is `GatewayError.answered`: each
        gateway counts a label once, and does not know what the others have counted. Raises `FailedPrecondition` if the
        gateway takes no labels.
        """
        request = messages.label_request(request_id, label)
        with self._errors():
            response = self._stub().ReportLabel(request, timeout=self._timeout(timeout_s), metadata=self._metadata())
        return bool(response.counted)

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
