"""Is a task worse off with the new revision? Three metrics, each of them with three answers."""

from __future__ import annotations

import math
from enum import Enum
from typing import NamedTuple

from multitask_api.routes import PreviousFigures
from multitask_operator.formatting import counted
from multitask_operator.rollout.counts import Counts
from multitask_operator.rollout.labels import surely_worse
from multitask_operator.rollout.plan import AnalysisSettings

#: Probability with which a single measurement may call a difference sure that is chance. A step has many measurements.
ALPHA = 0.001
#: Share of the answers that may take longer than the 95th percentile.
_SLOW_SHARE = 0.05


class Outcome(Enum):
    """How a measurement ended."""

    SUCCESSFUL = "Successful"
    INCONCLUSIVE = "Inconclusive"
    FAILED = "Failed"


class Measurement(NamedTuple):
    """The outcome of one metric, and the figures as a sentence."""

    outcome: Outcome
    message: str


def measure(
    new: Counts, old: Counts | None, previous: PreviousFigures | None, settings: AnalysisSettings
) -> Measurement:
    """The worst of all metrics, each compared with the old revision.

    ``previous``: what the old revision did in an earlier step; it counts where ``old`` has too few requests. ``old`` is
    None where no other revision answers the task: then its errors are compared with none at all.
    """
    if old is None:
        return _errors_alone(new, settings)
    metrics = (
        _errors(new, old, previous, settings),
        _latency(new, old, previous, settings),
        _accuracy(new, old, settings),
    )
    order = list(Outcome)
    return max(metrics, key=lambda item: order.index(item.outcome))


def figures(old: Counts | None, previous: PreviousFigures | None, settings: AnalysisSettings) -> PreviousFigures | None:
    """What the new revision is compared with: the old one's requests of this step if they are enough."""
    if old is None or old.requests < max(1, settings.min_requests):
        return previous
    return PreviousFigures(requests=old.requests, errors=old.errors, p95_seconds=old.quantile(1 - _SLOW_SHARE))


def surely_above(hits: int, trials: int, share: float) -> bool:
    """Whether ``hits`` of ``trials`` would be rarer than `ALPHA`, were ``share`` the truth.

    Chernoff's bound: P(X ≥ k) ≤ exp(−n · KL(k/n ‖ share)).
    """
    if not trials or hits <= share * trials:
        return False
    if share <= 0:
        return hits > 0
    observed = hits / trials
    divergence = observed * math.log(observed / share)
    if observed < 1:
        divergence += (1 - observed) * math.log((1 - observed) / (1 - share))
    return trials * divergence >= -math.log(ALPHA)


def is_less_accurate(new: Counts, old: Counts | None, settings: AnalysisSettings) -> bool:
    """Whether the labels alone say that the new revision is surely worse, however few requests it has had."""
    return old is not None and surely_worse((new.right, new.wrong), (old.right, old.wrong), settings.max_accuracy_drop)


def _errors(new: Counts, old: Counts, previous: PreviousFigures | None, settings: AnalysisSettings) -> Measurement:
    known = figures(old, previous, settings)
    before = known.errors / known.requests if known is not None else 0.0
    # With few requests behind it, an old revision without an error is not known to make none.
    assumed = (known.errors + 1) / (known.requests + 2) if known is not None else 0.0
    allowed = settings.max_error_rate_increase
    message = f"{_percent(new.error_rate)} of {counted(new.requests, 'request')} failed, {_percent(before)} before"
    if new.error_rate <= before + allowed:
        return Measurement(Outcome.SUCCESSFUL, message)
    is_sure = surely_above(new.errors, new.requests, min(1.0, max(before, assumed) + allowed))
    message += f"; {100 * allowed:g} {'point more is' if allowed == 0.01 else 'points more are'} allowed"
    return Measurement(Outcome.FAILED if is_sure else Outcome.INCONCLUSIVE, message)


def _errors_alone(new: Counts, settings: AnalysisSettings) -> Measurement:
    allowed = settings.max_error_rate_increase
    message = f"{_percent(new.error_rate)} of {counted(new.requests, 'request')} failed, {100 * allowed:g} % may"
    if new.error_rate <= allowed:
        return Measurement(Outcome.SUCCESSFUL, message)
    is_sure = surely_above(new.errors, new.requests, min(1.0, allowed))
    return Measurement(Outcome.FAILED if is_sure else Outcome.INCONCLUSIVE, message)


def _latency(new: Counts, old: Counts, previous: PreviousFigures | None, settings: AnalysisSettings) -> Measurement:
    known = figures(old, previous, settings)
    before, after = known.p95_seconds if known is not None else None, new.quantile(1 - _SLOW_SHARE)
    if before is None or after is None:
        return Measurement(Outcome.SUCCESSFUL, "")
    message = f"95th percentile {_milliseconds(after)}, {_milliseconds(before)} before"
    slow = new.above(before * settings.max_latency_ratio)
    if slow <= _SLOW_SHARE * sum(new.latencies):
        return Measurement(Outcome.SUCCESSFUL, message)
    message += f"; {settings.max_latency_ratio:g} times as much is allowed"
    is_sure = surely_above(slow, sum(new.latencies), _SLOW_SHARE)
    return Measurement(Outcome.FAILED if is_sure else Outcome.INCONCLUSIVE, message)


def _accuracy(new: Counts, old: Counts, settings: AnalysisSettings) -> Measurement:
    """By labels that came later. Too few of them are no reason to wait: most tasks never get any."""
    labelled, before = new.right + new.wrong, old.right + old.wrong
    if not labelled or not before:
        return Measurement(Outcome.SUCCESSFUL, "")
    message = (
        f"{_percent(new.right / labelled)} of {counted(labelled, 'labelled answer')} right,"
        f" {_percent(old.right / before)} of {before:,} before"
    )
    return Measurement(Outcome.FAILED if is_less_accurate(new, old, settings) else Outcome.SUCCESSFUL, message)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms"
