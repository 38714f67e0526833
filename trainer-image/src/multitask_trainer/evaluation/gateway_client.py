"""Sends the rows of a split through a gateway, a bounded number at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from multitask_client import (
    AsyncTaskClient,
    DeadlineExceeded,
    GatewayError,
    Overloaded,
    Prediction,
    Unavailable,
)
from multitask_trainer.data.rows import Row
from multitask_trainer.errors import ServingError

CONCURRENCY = 32
TIMEOUT_S = 120.0
ATTEMPTS = 4


async def predict_rows(client: AsyncTaskClient, task: str, rows: Sequence[Row], *, revision: str) -> list[Prediction]:
    """The gateway's answer to every row, in order, by ``revision``. Raises `ServingError`."""
    slots = asyncio.Semaphore(CONCURRENCY)

    async def one(row: Row) -> Prediction:
        async with slots:
            return await _predict(client, task, row, revision)

    return list(await asyncio.gather(*(one(row) for row in rows)))


async def _predict(client: AsyncTaskClient, task: str, row: Row, revision: str) -> Prediction:
    """One answer; the request is repeated while the server is overloaded or unavailable."""
    attempt = 0
    while True:
        attempt += 1
        try:
            return await client.predict(task, row.fields, revision=revision, timeout_s=TIMEOUT_S)
        except (Overloaded, Unavailable, DeadlineExceeded) as error:
            if attempt == ATTEMPTS:
                raise ServingError(f"{task}: no answer after {ATTEMPTS} attempts: {error}") from error
            await asyncio.sleep(0.5 * attempt)
        except GatewayError as error:
            raise ServingError(f"{task}: {error}") from error
