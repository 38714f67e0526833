"""Sends golden requests, whose answers are known, to a server: ``python -m multitask_serving.triton.probe``.

Triton stays "ready" after its Python process has died, and a server with broken weights answers too, but wrongly. So a
server counts as ready if it gives the golden answers, and as alive if it gives any answer.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from multitask_api.errors import UserError
from multitask_serving.triton.client import BackendError, TritonClient
from multitask_serving.triton.wire import Options, ServerStatus


class InvalidGolden(UserError):
    """The file of golden requests cannot be used."""


@dataclass(frozen=True, slots=True)
class GoldenRequest:
    """A request and the engine's answer during evaluation. With ``near_tie``, a correct server may differ.

    ``device`` gave the answer, see `wire.ServerStatus`; None: not recorded.
    """

    task: str
    fields: dict[str, str]
    answer: str
    near_tie: bool = False
    device: str | None = None


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A golden request with a different answer. ``actual`` is the answer, or the error if it is not ``answered``."""

    golden: GoldenRequest
    actual: str
    answered: bool = True

    def __str__(self) -> str:
        return f"task {self.golden.task!r}: expected {self.golden.answer!r}, got {self.actual!r}"


def load_golden(path: Path) -> list[GoldenRequest]:
    """Read JSON lines ``{"task", "fields", "label" or "text", "nearTie"?, "device"?}``. Raises `InvalidGolden`."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InvalidGolden(f"{path} cannot be read: {error.strerror}") from error
    golden = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            answer = row["label"] if "label" in row else row["text"]
            near_tie, device = row.get("nearTie") is True, row.get("device")
            golden.append(GoldenRequest(row["task"], dict(row["fields"]), str(answer), near_tie, device))
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidGolden(
                f"{path}:{number} is not a golden request ({error!r}); export the model again"
            ) from error
    if not golden:
        raise InvalidGolden(f"{path} has no golden request; export the model again")
    return golden


def sample_per_task(golden: Iterable[GoldenRequest], per_task: int) -> list[GoldenRequest]:
    """At most ``per_task`` requests of each task, evenly spaced."""
    tasks: dict[str, list[GoldenRequest]] = {}
    for request in golden:
        tasks.setdefault(request.task, []).append(request)
    return [request for requests in tasks.values() for request in requests[:: -(-len(requests) // per_task)]]


async def replay(
    address: str, golden: Sequence[GoldenRequest], *, timeout_s: float = 60.0, max_concurrency: int = 8
) -> list[Mismatch]:
    """Send every golden request, each limited to ``timeout_s``; returns those with another answer or an error."""
    semaphore = asyncio.Semaphore(max_concurrency)
    async with TritonClient(address) as client:

        async def check(request: GoldenRequest) -> Mismatch | None:
            async with semaphore:
                return await _compare(client, request, timeout_s)

        results = await asyncio.gather(*(check(request) for request in golden))
    return [result for result in results if result is not None]


async def is_alive(address: str, golden: GoldenRequest, *, timeout_s: float = 30.0) -> bool:
    """Whether the server gives any well-formed answer. ``timeout_s`` should exceed the longest wait in its queue."""
    async with TritonClient(address) as client:
        return await answers(client, golden, timeout_s=timeout_s)


async def answers(client: TritonClient, golden: GoldenRequest, *, timeout_s: float) -> bool:
    """See `is_alive`."""
    try:
        await _infer_text(client, golden, timeout_s)
    except BackendError:
        return False
    return True


async def read_status(client: TritonClient, *, timeout_s: float) -> ServerStatus | None:
    """What the model process says of itself, which does not wait in its queue; None: no answer within ``timeout_s``."""
    try:
        responses = client.infer("", {}, Options(status=True), timeout_s=timeout_s)
        return ServerStatus.decode("".join([response.text async for response in responses]))
    except (BackendError, ValueError):
        return None


async def _infer_text(client: TritonClient, golden: GoldenRequest, timeout_s: float) -> str:
    responses = client.infer(golden.task, golden.fields, Options(), timeout_s=timeout_s)
    return "".join([response.text async for response in responses])


async def _compare(client: TritonClient, golden: GoldenRequest, timeout_s: float) -> Mismatch | None:
    try:
        actual = await _infer_text(client, golden, timeout_s)
    except BackendError as error:
        return Mismatch(golden, f"{type(error).__name__}: {error}", answered=False)
    return None if actual == golden.answer or golden.near_tie else Mismatch(golden, actual)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the probe. Exit status 0: the server passes; 1: it does not; 2: the golden file cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m multitask_serving.triton.probe", description=__doc__)
    parser.add_argument("--address", required=True, help="Triton's gRPC address, host:port")
    parser.add_argument("--golden", required=True, type=Path, help="golden.jsonl")
    parser.add_argument("--alive", action="store_true", help="accept any answer")
    parser.add_argument("--timeout", type=float, default=30.0, help="seconds a request may take")
    parser.add_argument("--per-task", type=int, default=8, help="at most this many requests of each task")
    options = parser.parse_args(arguments)
    try:
        golden = sample_per_task(load_golden(options.golden), options.per_task)
    except InvalidGolden as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - a program's output
        return 2
    if options.alive:
        return 0 if asyncio.run(is_alive(options.address, golden[0], timeout_s=options.timeout)) else 1
    mismatches = asyncio.run(replay(options.address, golden, timeout_s=options.timeout))
    for mismatch in mismatches[:10]:
        print(mismatch, file=sys.stderr)  # noqa: T201 - a program's output
    return 1 if mismatches else 0


if __name__ == "__main__":
    sys.exit(main())
