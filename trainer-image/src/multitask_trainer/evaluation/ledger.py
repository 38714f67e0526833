"""The arithmetic of the ledger: replicas at a load, training seconds, and what one server saves against N. Pure.

L is the load of each task, c_i the measured capacity of the single-task server of task i, c that of the one server for
all tasks, for their mix; all in requests per second.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

from multitask_api.stage_io.ledger import LedgerSide, Reduction


def single_task_training(base: float, runs: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Stage kind → training seconds of N single-task models: the base, and one run a task, the mean over its seeds.

    ``base`` is the seconds of pre-training, ``runs`` those of each task's single-task runs.
    """
    return {"base": base, "baseline": sum(fmean(seconds) for seconds in runs.values() if seconds)}


def multi_task_training(
    base: float, runs: Mapping[str, Sequence[float]], shared: Mapping[str, Sequence[float]]
) -> dict[str, float]:
    """Stage kind → all training seconds that were spent: the base, every single-task run, and stages 2 and 3.

    All single-task runs count, not one a task: they decide which tasks are high-resource, and verdicts compare with
    them.
    """
    single = {"base": base, "baseline": sum(sum(seconds) for seconds in runs.values())}
    return single | {kind: sum(seconds) for kind, seconds in shared.items()}


def single_task_side(
    rates: Mapping[str, float], sizes: Mapping[str, int], training: Mapping[str, float], load: float
) -> LedgerSide:
    """N servers, one a task: ``rates`` are the c_i, ``load`` is L, ``sizes`` are bytes; Σ_i ⌈L / c_i⌉ replicas.

    ``training``: stage kind → seconds.
    """
    return LedgerSide(
        models=len(sizes),
        bytes=sum(sizes.values()),
        requests_per_second=sum(rates.values()),
        training_seconds=sum(training.values()),
        stage_seconds=dict(training),
        replicas=sum(replicas(load, rate) for rate in rates.values()),
        tasks=dict(rates),
    )


def multi_task_side(
    rate: float, sizes: Mapping[str, int], training: Mapping[str, float], load: float, tasks: int
) -> LedgerSide:
    """One server for N = ``tasks`` tasks: ``rate`` is c, ``load`` is L; ⌈N · L / c⌉ replicas."""
    return LedgerSide(
        models=len(sizes),
        bytes=sum(sizes.values()),
        requests_per_second=rate,
        training_seconds=sum(training.values()),
        stage_seconds=dict(training),
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
