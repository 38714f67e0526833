"""Watches a running Triton server of this pod, and tells `Health`: start, signs of life, drain."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from multitask_serving.pod.golden import judge
from multitask_serving.pod.health import Health
from multitask_serving.triton.client import TritonClient
from multitask_serving.triton.probe import GoldenRequest, answers, read_status, replay, sample_per_task
from multitask_serving.triton.server import TritonServer

log = logging.getLogger(__name__)

GOLDEN_PER_TASK = 8


@dataclass(frozen=True)
class Timing:
    """Seconds. The defaults are those of a pod."""

    golden_s: float = 600.0
    """What one golden request may take at the start; the startup probe limits all of them."""
    poll_s: float = 0.5
    """Between two looks at the processes."""
    ask_s: float = 5.0
    """Between two questions for the model process's status."""
    silence_s: float = 30.0
    """A server that has advanced no answer for so long is asked for one. One that is busy never is."""
    canary_s: float = 80.0
    """What that answer may take: longer than a request may wait in the queue."""
    notice_s: float = 5.0
    """A drain lasts so long at least: gateways need a moment to see that the pod is going."""
    drain_poll_s: float = 0.25
    quiet_s: float = 1.0
    """Nothing may be in flight for so long: a gateway may just have chosen this pod."""


async def check_golden(triton: TritonServer, golden: Sequence[GoldenRequest], health: Health, timing: Timing) -> None:
    """Compare the answers with those of the evaluation. Raises `WrongAnswers`."""
    health.model_is_loaded()
    sample = sample_per_task(golden, GOLDEN_PER_TASK)
    log.info("Triton is ready; comparing its answers to %d golden requests", len(sample))
    mismatches = await replay(triton.address, sample, timeout_s=timing.golden_s)
    async with TritonClient(triton.address) as client:
        status = await read_status(client, timeout_s=timing.golden_s)
    check = judge(sample, mismatches, status.device if status is not None else "a device that it does not name")
    log.log(logging.WARNING if check.different else logging.INFO, "%s", check.summary)
    health.started(check)


async def watch_processes(triton: TritonServer, timing: Timing) -> None:
    """Wait until Triton or its model process ends by itself, which raises `TritonFailed`."""
    while True:
        triton.check_running()
        await asyncio.sleep(timing.poll_s)


async def watch_answers(triton: TritonServer, golden: Sequence[GoldenRequest], health: Health, timing: Timing) -> None:
    """Report signs of life for as long as there are any: an answer of any request that was advanced, or one of ours.

    Triton stays ready when its model process hangs, and a queue may be long: so progress counts, and only a server
    without any is asked.
    """
    shortest = min(golden, key=lambda request: sum(map(len, request.fields.values())))
    async with TritonClient(triton.address) as client:
        while True:
            # Not a short time-out: Triton 2.51 may crash on a call that is given up.
            status = await read_status(client, timeout_s=timing.canary_s)
            if status is not None:
                health.in_flight(status.in_flight)
                advances = status.idle_s is not None and status.idle_s < timing.silence_s
                if advances or await answers(client, shortest, timeout_s=timing.canary_s):
                    health.alive()
                else:
                    log.error("the model process gave no answer within %g s, and advances none", timing.canary_s)
            else:
                log.error("the model process does not say how it is within %g s", timing.canary_s)
            await asyncio.sleep(timing.ask_s)


async def drain(triton: TritonServer, health: Health, timeout_s: float, timing: Timing) -> None:
    """Be no longer ready, and wait until nothing has been in flight for a moment, for at most ``timeout_s`` seconds.

    The server still answers what comes: some gateways learn later than others that it is going.
    """
    health.want_drain()
    clock = asyncio.get_running_loop().time
    began = quiet_since = clock()
    in_flight = 0
    async with TritonClient(triton.address) as client:
        while (left := began + timeout_s - clock()) > 0:
            status = await read_status(client, timeout_s=left)
            if status is None:  # the model process is gone, and with it what was in flight
                break
            in_flight = status.in_flight
            health.in_flight(in_flight)
            if in_flight:
                quiet_since = clock()
            if clock() - began >= timing.notice_s and clock() - quiet_since >= timing.quiet_s:
                break
            await asyncio.sleep(timing.drain_poll_s)
    log.info("drained in %.1f s, with %d requests left", clock() - began, in_flight)
    health.drained()
