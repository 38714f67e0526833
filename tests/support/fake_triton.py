"""A gRPC server that answers as a Triton server with our model does, where it does not matter what the model says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
from tritonclient.grpc import service_pb2, service_pb2_grpc

from multitask_serving.triton import wire

NO_VERSIONS = "Request for unknown model: 'multitask' has no available versions"
"""Triton's answer after SIGTERM, on connections that are still open."""


_OPTIONS = [("grpc.so_reuseport", 0), ("grpc.http2.min_ping_interval_without_data_ms", 500)]


class FakeTriton(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers the label ``low``, or ``pieces`` texts if the request streams. A test changes what it does.

    ``seconds``: how long an answer takes, and each piece of a text. ``ending``: it answers as after SIGTERM.
    ``breaking``: every call ends with an error after its answer, as of a server that is killed just then.
    """

    def __init__(self, host: str, name: str = "", *, seconds: float = 0.0, pieces: int = 3) -> None:
        self.host, self.name = host, name
        self.port = 0
        self.seconds, self.pieces = seconds, pieces
        self.ending = self.breaking = False
        self.device = "cpu"
        self.requests = 0
        self.running = 0
        self._server: grpc.aio.Server | None = None

    async def start(self, port: int = 0) -> None:
        self._server = grpc.aio.server(options=_OPTIONS)
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"{self.host}:{port}")
        await self._server.start()

    async def stop(self, grace: float | None = None) -> None:
        """Without ``grace`` as if the process were killed: calls that run are cut."""
        if self._server is not None:
            await self._server.stop(grace)

    async def ModelStreamInfer(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        async for request in requests:
            options = json.loads(_input(request, wire.OPTIONS))
            if options.get("status"):
                yield _response(request, wire.ServerStatus(self.running, None, self.device).encode(), final=True)
                continue
            if options.get("cancel"):
                yield _error(wire.WireError(wire.CANCELLED, "cancelled").encode())
                continue
            self.requests += 1
            if self.ending:
                await context.abort(grpc.StatusCode.NOT_FOUND, NO_VERSIONS)
            self.running += 1
            try:
                async for response in self._answer(request, stream=bool(options["stream"])):
                    yield response
                if self.breaking:
                    await context.abort(grpc.StatusCode.UNAVAILABLE, "Cancelling all calls")
            finally:
                self.running -= 1

    async def _answer(self, request: Any, *, stream: bool) -> AsyncIterator[Any]:
        if not stream:
            await asyncio.sleep(self.seconds)
            yield _response(request, "low", labels=("low", "high"), scores=(0.75, 0.25), final=True)
            return
        for number in range(self.pieces):
            await asyncio.sleep(self.seconds)
            is_last = number == self.pieces - 1
            yield _response(request, f"{number} ", finish_reason="eos" if is_last else "", final=is_last)


def _input(request: Any, name: str) -> str:
    for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True):
        if tensor.name == name:
            return bytes(raw[4:]).decode()  # a BYTES tensor of one element: its length, then itself
    raise AssertionError(f"no input {name}")


def _response(
    request: Any,
    text: str,
    *,
    labels: tuple[str, ...] = ("",),
    scores: tuple[float, ...] = (0.0,),
    finish_reason: str = "",
    final: bool,
) -> Any:
    import numpy as np
    from tritonclient.utils import serialize_byte_tensor

    response = service_pb2.ModelInferResponse(model_name=wire.MODEL, id=request.id)
    texts = {wire.TEXT: (text,), wire.LABELS: labels, wire.FINISH_REASON: (finish_reason,), wire.REVISION: ("fake",)}
    for name, values in texts.items():
        response.outputs.add(name=name, datatype="BYTES", shape=[len(values)])
        encoded = np.array([value.encode() for value in values], dtype=np.object_)
        response.raw_output_contents.append(serialize_byte_tensor(encoded).item())
    response.outputs.add(name=wire.SCORES, datatype="FP32", shape=[len(scores)])
    response.raw_output_contents.append(np.array(scores, dtype=np.float32).tobytes())
    response.parameters["triton_final_response"].bool_param = final
    return service_pb2.ModelStreamInferResponse(infer_response=response)


def _error(message: str) -> Any:
    return service_pb2.ModelStreamInferResponse(error_message=message)


@asynccontextmanager
async def running(*servers: FakeTriton) -> AsyncIterator[tuple[FakeTriton, ...]]:
    """Start all, and stop them at the end."""
    for server in servers:
        await server.start()
    try:
        yield servers
    finally:
        await asyncio.gather(*(server.stop() for server in servers))
