"""Divides work over the processes of a launch."""

from __future__ import annotations

import heapq
from collections.abc import Sequence


def balanced_shares(costs: Sequence[float], processes: int) -> list[list[int]]:
    """Each process's items: every item is in exactly one share, and the shares' costs differ little.

    Longest processing time first (R. L. Graham 1969, "Bounds on Multiprocessing Timing Anomalies"): the items, from the
    most expensive one on, go to the process with the lowest cost so far, the first of several. No share then costs more
    than 4/3 of the largest share of the best division. A share lists its items' numbers in ascending order; it is empty
    if there are fewer items than processes.
    """
    shares: list[list[int]] = [[] for _ in range(processes)]
    loads = [(0.0, process) for process in range(processes)]
    for item in sorted(range(len(costs)), key=lambda item: -costs[item]):
        load, process = loads[0]
        shares[process].append(item)
        heapq.heapreplace(loads, (load + costs[item], process))
    return [sorted(share) for share in shares]
