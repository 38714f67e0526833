"""How often a label waits far longer than usual: ``PYTHONPATH=tests python tests/benchmarks/serving_stalls.py``.

A random Llama behind a real Triton of one torch thread, asked for labels one at a time: over one stream straight to
Triton, then through the gateway by 1, 4 and 32 clients. Prints requests a second, the median, the 99th percentile, the
longest, and the share of requests that took more than ten times the median.
"""

from __future__ import annotations

import argparse
import asyncio
import queue
import statistics
import tempfile
import time
from collections.abc import Awaitable, Sequence
from pathlib import Path

import tritonclient.grpc

from integration.serving.conftest import URGENCY, backend, table, write_table
from multitask_client import AsyncTaskClient
from multitask_serving.gateway.server import running_gateway
from multitask_serving.triton import wire
from multitask_serving.triton.client import _request
from multitask_serving.triton.repository import ModelSettings, write_repository
from multitask_serving.triton.server import TritonServer
from support.engine_builders import llama, served_task, write_bundle

CLIENTS = (1, 4, 32)
STALL = 10
FIELDS = {"text": "My parcel has not arrived, and nobody answers the telephone"}


def on_one_stream(address: str, requests: int) -> list[float]:
    """Seconds of each request over one stream, one at a time."""
    answers: queue.Queue[object] = queue.Queue()
    with tritonclient.grpc.InferenceServerClient(address) as client:
        client.start_stream(lambda result, error: answers.put(error or result))
        seconds = []
        for _ in range(requests):
            start = time.perf_counter()
            client.async_stream_infer(**_request("urgency", FIELDS, wire.Options(), timeout_s=30))
            answer = answers.get(timeout=60)
            if isinstance(answer, Exception):
                raise answer
            seconds.append(time.perf_counter() - start)
        client.stop_stream()
    return seconds


async def through_gateway(address: str, clients: int, requests: int) -> list[float]:
    """Seconds of each request: ``clients`` of them at a time."""
    seconds: list[float] = []

    async def ask(client: AsyncTaskClient) -> None:
        for _ in range(requests // clients):
            start = time.perf_counter()
            await client.predict("urgency", FIELDS)
            seconds.append(time.perf_counter() - start)

    async with AsyncTaskClient(address) as client:
        await asyncio.gather(*(ask(client) for _ in range(clients)))
    return seconds


async def measure(routes: Path, requests: int) -> None:
    """Run every number of clients against a gateway of its own."""
    async with running_gateway(routes, "127.0.0.1:0") as gateway:
        address = f"127.0.0.1:{gateway.port}"
        await through_gateway(address, 1, 50)
        for clients in CLIENTS:
            await report(f"gateway, {clients} clients", through_gateway(address, clients, requests))


async def report(title: str, work: Awaitable[Sequence[float]]) -> None:
    """Wait for the requests, and print one line of the table."""
    start = time.perf_counter()
    seconds = sorted(await work)
    elapsed, median = time.perf_counter() - start, statistics.median(seconds)
    stalls = sum(each > STALL * median for each in seconds) / len(seconds)
    figures = [1000 * value for value in (median, seconds[int(0.99 * len(seconds))], seconds[-1])]
    print(
        f"{title:22} {len(seconds) / elapsed:8.0f} {figures[0]:8.1f} {figures[1]:8.1f} {figures[2]:8.1f} {stalls:8.2%}"
    )


async def main() -> None:
    """Start the servers, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1000, help="of each line (default: %(default)s)")
    requests = parser.parse_args().requests
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        urgency = served_task("urgency", URGENCY, labels=["low", "medium", "high"])
        write_bundle(work / "bundle", [urgency], models={"base": llama()})
        repository = write_repository(work / "bundle", work / "repository", ModelSettings(threads=1))
        with TritonServer.start(repository, work) as triton:
            print(f"{'':22} {'req/s':>8} {'p50 ms':>8} {'p99 ms':>8} {'max ms':>8} {'>10×p50':>8}")
            on_one_stream(triton.address, 50)
            await report("Triton, one stream", asyncio.to_thread(on_one_stream, triton.address, requests))
            await measure(write_table(work / "routes.yaml", table(backend(triton.port), tasks=["urgency"])), requests)


if __name__ == "__main__":
    asyncio.run(main())
