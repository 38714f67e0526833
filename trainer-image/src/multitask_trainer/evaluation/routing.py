"""Who answers each task: its mixture if it qualified or is surely better, else its baseline, else nobody. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from multitask_api.bundle import BASELINE
from multitask_api.stage_io.results import TaskVerdict

SURELY_BETTER = "SurelyBetter"


@dataclass(frozen=True)
class BaselineRun:
    """One trained seed of a task's baseline: its stage name and its validation score."""

    stage: str
    validation: float


@dataclass(frozen=True)
class RoutingDecision:
    """Who answers a task: ``served_by`` is its group, ``baseline`` or None; ``stage`` is the baseline's run.

    ``cause`` is the reason as one CamelCase word.
    """

    task: str
    served_by: str | None
    reason: str
    cause: str
    stage: str | None = None


def route(verdict: TaskVerdict, group: str, baselines: Sequence[BaselineRun]) -> RoutingDecision:
    """Its group answers a task that is qualified, or inconclusive and surely better there than by all else.

    Any other task is answered by its baseline, if one was trained, and without one by nobody. Of several seeds the one
    with the best validation score answers, ties by name.
    """
    task, why = verdict.task, f"{verdict.verdict}: {verdict.reason}"
    cause = verdict.cause or verdict.verdict
    if verdict.verdict == "Qualified":
        return RoutingDecision(task, group, why, cause)
    if verdict.is_surely_better:
        reason = "the shared model is surely at least as good here as all else that could answer"
        return RoutingDecision(task, group, f"{why}; {reason}", SURELY_BETTER)
    if verdict.verdict == "NoBaseline":
        return RoutingDecision(task, None, f"{why}; without a comparison it is not routed", cause)
    if not baselines:
        return RoutingDecision(task, None, f"{why}; there is no trained baseline to answer it", cause)
    best = min(baselines, key=lambda run: (-run.validation, run.stage))
    return RoutingDecision(task, BASELINE, why, cause, best.stage)


def route_all(
    verdicts: Sequence[TaskVerdict],
    groups: Mapping[str, Sequence[str]],
    baselines: Mapping[str, Sequence[BaselineRun]],
) -> list[RoutingDecision]:
    """`route` for every task, in the order of the groups. Raises KeyError for a task without a verdict."""
    by_task = {verdict.task: verdict for verdict in verdicts}
    return [route(by_task[task], group, baselines.get(task, ())) for group, tasks in groups.items() for task in tasks]


def is_promoted(verdicts: Sequence[TaskVerdict], promote: Literal["Qualified", "AllQualified"]) -> bool:
    """Whether a new revision may be served at all."""
    return promote == "Qualified" or all(verdict.verdict == "Qualified" for verdict in verdicts)
