"""Calls every task through the gateway at a constant rate until SIGTERM; it runs in a pod of the gateway's image.

Every second it prints one line of JSON: how many requests of each task each revision has answered, and the first errors
of each kind. Requests begin on time, however long the earlier ones take.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from multitask_client import AsyncTaskClient, GatewayError, Prediction, Tls

MOST_ERRORS = 20
TIMEOUT_S = 60.0


class Load:
    """What came of the requests so far. ``labels``: task → the true label of its answers, to be reported."""

    def __init__(self, client: AsyncTaskClient, labels: Mapping[str, str]) -> None:
        self._client = client
        self._labels = labels
        self._answers: dict[str, Counter[str]] = {}
        self._errors: list[str] = []
        self._failed = 0

    async def ask(self, name: str, *, is_stream: bool) -> None:
        """One request."""
        began = time.time()
        try:
            if is_stream:
                parts = [part async for part in self._client.predict_stream(name, text="please, about my invoice")]
                prediction = parts[-1]
            else:
                prediction = await self._client.predict(name, text="please, about my invoice, soon")
                if name in self._labels:
                    await self._client.report_label(prediction.request_id, self._labels[name])
            assert isinstance(prediction, Prediction), prediction
            self._answers.setdefault(name, Counter())[prediction.revision] += 1
        except GatewayError as error:
            self._failed += 1
            if len(self._errors) < MOST_ERRORS:
                self._errors.append(f"{began:.1f} + {time.time() - began:.1f} s, {name}: {error.status.name}: {error}")

    def line(self) -> str:
        """All counts as one line."""
        return json.dumps({"answers": self._answers, "failed": self._failed, "errors": self._errors}) + "\n"


async def run(options: argparse.Namespace) -> None:
    """Call until SIGTERM, and wait for the calls that have begun."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    key = options.api_key_file.read_text().strip()
    async with AsyncTaskClient(options.address, timeout_s=TIMEOUT_S, api_key=key, tls=Tls(ca=options.ca)) as client:
        load = Load(client, dict(each.split("=") for each in options.labels))
        async with asyncio.TaskGroup() as group:

            async def at_rate(name: str, rate: float, *, is_stream: bool) -> None:
                while not stop.is_set():
                    group.create_task(load.ask(name, is_stream=is_stream))
                    await asyncio.sleep(1 / rate)

            async def report() -> None:
                while not stop.is_set():
                    sys.stdout.write(load.line())
                    sys.stdout.flush()
                    await asyncio.sleep(1)

            group.create_task(report())
            for name, rate in map(named_rate, options.unary):
                group.create_task(at_rate(name, rate, is_stream=False))
            for name, rate in map(named_rate, options.stream):
                group.create_task(at_rate(name, rate, is_stream=True))
        sys.stdout.write(load.line())


def named_rate(text: str) -> tuple[str, float]:
    """``NAME=RATE`` → name, requests a second."""
    name, _, rate = text.partition("=")
    return name, float(rate)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", required=True)
    parser.add_argument("--ca", type=Path, required=True)
    parser.add_argument("--api-key-file", type=Path, required=True)
    parser.add_argument("--unary", nargs="*", default=[], metavar="NAME=RATE")
    parser.add_argument("--stream", nargs="*", default=[], metavar="NAME=RATE")
    parser.add_argument("--labels", nargs="*", default=[], metavar="NAME=LABEL", help="the true labels, to be reported")
    asyncio.run(run(parser.parse_args()))
