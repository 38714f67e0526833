"""Requests per second of an engine, and the memory that the runtime takes before any weights."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from itertools import chain, zip_longest

from multitask_serving.engine.engine import Engine
from multitask_serving.engine.types import Request
from multitask_trainer.data.rows import Row
from multitask_trainer.errors import StageError

BATCH = 32
"""Requests answered together: Triton's largest batch."""
WINDOW_SECONDS = 0.4

_RUNTIME = """
import psutil, torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM
from multitask_serving.engine.engine import Engine
torch.ones(8, 8) @ torch.ones(8, 8)
print(psutil.Process().memory_info().rss)
"""


class RequestStream:
    """An endless stream of batches over the rows of some tasks, the tasks taking turns."""

    def __init__(self, rows: Mapping[str, Sequence[Row]]) -> None:
        columns = [[Request(task, row.fields) for row in task_rows] for task, task_rows in rows.items() if task_rows]
        width = max((len(column) for column in columns), default=0)
        # Small tasks are repeated, so that each has the same share.
        repeated = [[column[at % len(column)] for at in range(width)] for column in columns]
        self._requests = [item for item in chain.from_iterable(zip_longest(*repeated)) if item is not None]
        self._at = 0

    def next_batch(self) -> list[Request]:
        """The next requests."""
        batch = [self._requests[(self._at + offset) % len(self._requests)] for offset in range(BATCH)]
        self._at += BATCH
        return batch


def answer_batch(engine: Engine, requests: Sequence[Request]) -> None:
    """Answer a mixed batch as the server does: labels together, texts together."""
    kinds = [engine.task(request.task).type for request in requests]
    labels = [request for request, kind in zip(requests, kinds, strict=True) if kind == "Classification"]
    texts = [request for request, kind in zip(requests, kinds, strict=True) if kind == "Generation"]
    if labels:
        engine.classify(labels)
    if texts:
        engine.generate_all(texts)


def requests_per_second(engine: Engine, requests: RequestStream, seconds: float = WINDOW_SECONDS) -> float:
    """Requests per second over at least one batch and about ``seconds`` seconds."""
    begun = time.perf_counter()
    answered = 0
    while True:
        batch = requests.next_batch()
        answer_batch(engine, batch)
        answered += len(batch)
        passed = time.perf_counter() - begun
        if passed >= seconds:
            return answered / passed


def runtime_bytes() -> int:
    """Resident bytes of a process that has imported what serves, and loaded no weights."""
    done = subprocess.run([sys.executable, "-c", _RUNTIME], capture_output=True, text=True, timeout=300, check=False)
    if done.returncode != 0:
        raise StageError(f"the runtime could not be measured: {done.stderr.strip()[-500:]}")
    return int(done.stdout.split()[-1])
