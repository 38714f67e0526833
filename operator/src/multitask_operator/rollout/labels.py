"""A sequential test of two accuracies, for labels that come one after the other. Pure.

It may be looked at after every label: the probability of ever raising a false alarm stays below `ALPHA`. For each
revision the likelihood of its labels, mixed over all accuracies (Beta(½, ½)), is divided by their likelihood under one
accuracy. Were that one true, the ratio would be a martingale of mean 1, so by Ville's inequality it exceeds 1/α with
probability α at most; the same holds for the product of two independent ones (Robbins 1970, "Statistical methods
related to the law of the iterated logarithm"; Johari et al. 2022, "Always valid inference", as mixture SPRT).
"""

from __future__ import annotations

import math

#: Probability of ever calling a revision worse that is within the allowed drop.
ALPHA = 0.05
_THIRDS = 60
_PRIOR = 0.5


def surely_worse(new: tuple[int, int], old: tuple[int, int], drop: float) -> bool:
    """Whether the new accuracy is surely more than ``drop`` below the old one.

    ``new``, ``old``: answers of the revision that were right and that were wrong, all since the rollout began.
    """
    if not sum(new) or not sum(old) or new[0] / sum(new) >= old[0] / sum(old) - drop:
        return False
    return _is_evident(new, old, drop, -math.log(ALPHA))


def _is_evident(new: tuple[int, int], old: tuple[int, int], drop: float, enough: float) -> bool:
    """Whether the logarithm of the product of both ratios is ``enough`` under every pair of accuracies that is allowed.

    Both ratios are convex in their accuracy and smallest at the observed one, and the observed pair is not allowed: so
    the minimum lies where the new accuracy is exactly ``drop`` below the old one. Found by thirds.
    """
    low, high = 0.0, 1.0 - drop
    for _ in range(_THIRDS):
        left, right = low + (high - low) / 3, high - (high - low) / 3
        at_left = _evidence(new, left) + _evidence(old, left + drop)
        at_right = _evidence(new, right) + _evidence(old, right + drop)
        if min(at_left, at_right) < enough:
            return False
        low, high = (low, right) if at_left <= at_right else (left, high)
    return True


def _evidence(labels: tuple[int, int], accuracy: float) -> float:
    """The logarithm of mixed likelihood over likelihood under ``accuracy``."""
    right, wrong = labels
    mixed = _log_beta(right + _PRIOR, wrong + _PRIOR) - _log_beta(_PRIOR, _PRIOR)
    return mixed - _times_log(right, accuracy) - _times_log(wrong, 1 - accuracy)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _times_log(count: int, share: float) -> float:
    return 0.0 if not count else -math.inf if share <= 0 else count * math.log(share)
