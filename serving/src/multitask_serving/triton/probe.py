"""Asks a server questions whose answers are known: ``python -m multitask_serving.triton.probe``.

Triton stays "ready" after its Python process died, and a server with broken weights answers too, only wrongly. So a
server counts as ready when it gives the golden answers, and as alive when it gives any answer.
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
from multitask_serving.triton.wire import Options


class InvalidGolden(UserError):
    """The file of golden requests cannot be used."""


@dataclass(frozen=True, slots=True)
class Golden:
    """A request, the answer that the measured engine gave, and whether a sound server may give another."""

    task: str
    fields: dict[str, str]
    answer: str
    near_tie: bool = False


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A golden request that was answered otherwise, or not at all (``got`` is then the error)."""

    golden: Golden
    got: str

    def __str__(self) -> str:
        return f"task {self.golden.task!r}: expected {self.golden.answer!r}, got {self.got!r}"


def load_golden(path: Path) -> list[Golden]:
    """Read JSON lines ``{"task", "fields", "label" or "text", "nearTie"?}``. Raises `InvalidGolden`."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InvalidGolden(f"{path} cannot be read: {error.strerror}") from error
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            answer = row["label"] if "label" in row else row["text"]
            found.append(Golden(row["task"], dict(row["fields"]), str(answer), row.get("nearTie") is True))
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidGolden(
                f"{path}:{number} is not a golden request ({error!r}); export the model again"
            ) from error
    if not found:
        raise InvalidGolden(f"{path} holds no golden request; export the model again")
    return found


def spread(golden: Iterable[Golden], per_task: int) -> list[Golden]:
    """At most ``per_task`` requests of each task, evenly over those there are."""
    tasks: dict[str, list[Golden]] = {}
    for request in golden:
        tasks.setdefault(request.task, []).append(request)
    return [request for requests in tasks.values() for request in requests[:: -(-len(requests) // per_task)]]


async def replay(
    address: str, golden: Sequence[Golden], *, timeout_s: float = 60.0, at_once: int = 8
) -> list[Mismatch]:
    """Ask every golden request, ``at_once`` at a time and each within ``timeout_s``; give those answered otherwise."""
    slots = asyncio.Semaphore(at_once)
    async with TritonClient(address) as client:

        async def one(request: Golden) -> Mismatch | None:
            async with slots:
                return await _compare(client, request, timeout_s)

        results = await asyncio.gather(*(one(request) for request in golden))
    return [result for result in results if result is not None]


async def is_alive(address: str, golden: Golden, *, timeout_s: float = 30.0) -> bool:
    """Whether the server gives any well-formed answer. ``timeout_s`` belongs above the longest queue."""
    async with TritonClient(address) as client:
        try:
            await _answer(client, golden, timeout_s)
        except BackendError:
            return False
    return True


async def _answer(client: TritonClient, golden: Golden, timeout_s: float) -> str:
    answers = client.infer(golden.task, golden.fields, Options(), timeout_s=timeout_s)
    return "".join([answer.text async for answer in answers])


async def _compare(client: TritonClient, golden: Golden, timeout_s: float) -> Mismatch | None:
    try:
        got = await _answer(client, golden, timeout_s)
    except BackendError as error:
        return Mismatch(golden, f"{type(error).__name__}: {error}")
    return None if got == golden.answer or golden.near_tie else Mismatch(golden, got)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0 if the server passes, 1 if it does not, 2 if the golden file cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m multitask_serving.triton.probe", description=__doc__)
    parser.add_argument("--address", required=True, help="Triton's gRPC address, host:port")
    parser.add_argument("--golden", required=True, type=Path, help="golden.jsonl")
    parser.add_argument("--alive", action="store_true", help="only whether anything is answered")
    parser.add_argument("--timeout", type=float, default=30.0, help="seconds a request may take")
    parser.add_argument("--per-task", type=int, default=8, help="requests of each task")
    options = parser.parse_args(arguments)
    try:
        golden = spread(load_golden(options.golden), options.per_task)
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
