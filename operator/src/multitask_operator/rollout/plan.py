"""The steps of a rollout in one form, whichever the resource has, with every setting filled in."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from multitask_api.resource.serving import Analysis, Rollout, RolloutStep
from multitask_api.routes import RolloutState


@dataclass(frozen=True)
class AnalysisSettings:
    """`Analysis` without gaps; times in seconds."""

    interval: float = 30
    initial_delay: float = 0
    count: int = 1
    min_requests: int = 50
    max_step_seconds: float = 600
    failure_limit: int = 0
    inconclusive_limit: int = 20
    consecutive_error_limit: int = 4
    max_error_rate_increase: float = 0.01
    max_latency_ratio: float = 1.5
    max_accuracy_drop: float = 0.01


class Step(NamedTuple):
    """One step. It ends when its pause is over and its analysis has passed, whichever of them it has."""

    weight: int
    """Percentage of the traffic that the new revision has during the step."""
    window: int
    """The step at which that weight began: requests are counted from there."""
    pauses: bool = False
    pause: float | None = None
    """Seconds; None: until somebody resumes."""
    analysis: AnalysisSettings | None = None
    is_held: bool = False
    """Whether no task that has no traffic yet gets any."""


def steps_of(rollout: Rollout) -> tuple[Step, ...]:
    """All steps, in the order and number in which the resource has them."""
    steps: list[Step] = []
    weight = window = 0
    for index, step in enumerate(rollout.steps):
        if not isinstance(step, RolloutStep):
            steps.append(Step(step, index, analysis=analysis_settings(rollout)))
        elif step.set_weight is not None:
            weight, window = step.set_weight, index
            steps.append(Step(weight, window))
        elif step.pause is not None:
            steps.append(Step(weight, window, pauses=True, pause=step.pause.duration))
        else:
            steps.append(Step(weight, window, analysis=analysis_settings(rollout, step.analysis)))
    return tuple(steps)


def retry_suffix(state: RolloutState) -> str:
    """What the names of a rollout end with that is tried again, so that nothing of the earlier try counts for it."""
    return f"-retry-{zlib.crc32(state.retry.encode()):08x}" if state.retry else ""


def window_name(state: RolloutState, step: Step) -> str:
    """Gateways count requests from 0 when it changes, and labels when the part before the slash does."""
    return f"{state.revision}{retry_suffix(state)}/{step.window}"


def held_step(weight: int, window: str | None) -> Step:
    """The step of a rollout that stays where it is: with its weight, and the window that is in the table."""
    number = (window or "").rpartition("/")[2]
    return Step(weight, int(number) if number.isdecimal() else 0, is_held=True)


def strict(settings: AnalysisSettings) -> AnalysisSettings:
    """The settings, with limits that allow no more than the defaults do."""
    usual = AnalysisSettings()
    return replace(
        settings,
        max_error_rate_increase=min(settings.max_error_rate_increase, usual.max_error_rate_increase),
        max_latency_ratio=min(settings.max_latency_ratio, usual.max_latency_ratio),
        max_accuracy_drop=min(settings.max_accuracy_drop, usual.max_accuracy_drop),
    )


def analysis_settings(rollout: Rollout, own: Analysis | None = None) -> AnalysisSettings:
    """The settings of one step: its own, else the rollout's, else the defaults."""
    outer: dict[str, Any] = {"min_requests": rollout.min_requests, "max_step_seconds": rollout.max_step_seconds}
    given = outer | _given(rollout.analysis) | _given(own)
    return replace(AnalysisSettings(), **given)


def _given(analysis: Analysis | None) -> dict[str, Any]:
    return analysis.model_dump(exclude_none=True) if analysis is not None else {}
