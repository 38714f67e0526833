"""Who answers each task: its mixture if it qualified, else its baseline, else nobody. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from multitask_api.bundle import BASELINE
from multitask_api.stage_io.results import TaskVerdict


@dataclass(frozen=True)
class BaselineRun:
    """One trained seed of a task's baseline: its stage name and its validation score."""

    stage: str
    validation: float


@dataclass(frozen=True)
class RoutingDecision:
    """Who answers a task: ``served_by`` is its group, ``baseline`` or None; ``stage`` is the baseline's run."""

    task: str
    served_by: str | None
    reason: str
    stage: str | None = None


def route(verdict: TaskVerdict, group: str, baselines: Sequence[BaselineRun]) -> RoutingDecision:
    """A qualified task is answered by its group, any other by its baseline if one was trained; without one by nobody.

    Of several seeds the one with the best validation score answers, ties by name.
    """
    task = verdict.task
    if verdict.verdict == "Qualified":
        return RoutingDecision(task, group, f"Qualified: {verdict.reason}")
    if verdict.verdict == "NoBaseline":
        return RoutingDecision(task, None, f"NoBaseline: {verdict.reason}; without a comparison it is not routed")
    if not baselines:
        return RoutingDecision(
            task, None, f"{verdict.verdict}: {verdict.reason}; there is no trained baseline to answer it"
        )
    best = min(baselines, key=lambda run: (-run.validation, run.stage))
    return RoutingDecision(task, BASELINE, f"{verdict.verdict}: {verdict.reason}", best.stage)


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
