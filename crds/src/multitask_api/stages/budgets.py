"""How the steps of ``stages.totalSteps`` are divided among groups. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping


def baseline_steps(chosen: float, saturation: float) -> int:
    """What a group counts for that its only task's baseline answers: the step of the baseline's chosen checkpoint.

    Both are means over the baseline's seeds, in steps. A checkpoint of step 0 counts as the saturation, as it does in
    the default budget of a mixture.
    """
    return max(1, math.ceil(chosen or saturation))


def divide(total: int, weights: Mapping[str, float]) -> dict[str, int]:
    """Whole numbers in proportion to ``weights`` (all positive) that sum to ``total``, each at least 1.

    By largest remainders; of equal ones the first. Weights that sum to ``total`` are the shares. Raises ValueError if
    ``total`` is less than one for each.
    """
    if total < len(weights):
        raise ValueError(f"{total} steps cannot be divided among {len(weights)} groups")
    whole = sum(weights.values())
    exact = {name: total * weight / whole for name, weight in weights.items()}
    shares = {name: max(1, math.floor(value)) for name, value in exact.items()}
    while (missing := total - sum(shares.values())) != 0:
        lack = {name: exact[name] - share for name, share in shares.items() if missing > 0 or share > 1}
        chosen = max(lack, key=lambda name: lack[name]) if missing > 0 else min(lack, key=lambda name: lack[name])
        shares[chosen] += 1 if missing > 0 else -1
    return shares
