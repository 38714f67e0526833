"""The arithmetic of the ledger: replicas at a load, and what one server saves against N. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping

from multitask_api.results import LedgerSide, Reduction


def single_task_side(
    rates: Mapping[str, float], sizes: Mapping[str, int], training_seconds: float, load: float
) -> LedgerSide:
    """N servers, one a task: ``rates`` are requests/s of each, ``sizes`` its bytes; Σ ⌈L / c_i⌉ replicas."""
    return LedgerSide(
        models=len(sizes),
        bytes=sum(sizes.values()),
        requests_per_second=sum(rates.values()),
        training_seconds=training_seconds,
        replicas=sum(replicas(load, rate) for rate in rates.values()),
        tasks=dict(rates),
    )


def multi_task_side(
    rate: float, sizes: Mapping[str, int], training_seconds: float, load: float, tasks: int
) -> LedgerSide:
    """One server for all ``tasks``: ``rate`` requests/s of their mix; ⌈Σ L / c⌉ replicas."""
    return LedgerSide(
        models=len(sizes),
        bytes=sum(sizes.values()),
        requests_per_second=rate,
        training_seconds=training_seconds,
        replicas=replicas(load * tasks, rate),
    )


def replicas(load: float, rate: float) -> int:
    """Servers of ``rate`` requests/s that ``load`` requests/s need; 0 where nothing was measured."""
    return math.ceil(load / rate) if rate > 0 else 0


def reduction(single: LedgerSide, multi: LedgerSide) -> Reduction:
    """1 - multi/single, of bytes and of replicas; negative where one server costs more; 0 without a single side."""
    return Reduction(bytes=_saved(single.bytes, multi.bytes), replicas=_saved(single.replicas, multi.replicas))


def _saved(single: int, multi: int) -> float:
    return 1.0 - multi / single if single else 0.0
