"""What is written about a decision: the status, once and only if it changed, and Events. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from multitask_api.resource.status import Condition, MultiTaskModelStatus
from multitask_operator.objects.actions import Action, Event, PatchStatus
from multitask_operator.planner.status import format_time
from multitask_operator.reconciler.cluster_state import ClusterState
from multitask_operator.reconciler.outcome import Outcome
from multitask_operator.reconciler.stage_job import parse_time

#: Seconds between two status patches that change nothing but progress.
PROGRESS_SECONDS = 15.0
_QUIET = frozenset({"NotTrained", "StagesRunning"})


def status_update(raw: ClusterState, status: MultiTaskModelStatus, now: float) -> Outcome:
    """The patch that makes the resource's status ``status``, and the Events that go with it."""
    before: Mapping[str, Any] = raw.model.get("status") or {}
    wanted = status.to_json()
    if _without_progress(before) == _without_progress(wanted):
        if _progress_of(before) == _progress_of(wanted):
            return Outcome()
        # The stamp has whole seconds: that write may have been almost one later.
        wait = _last(before) + 1.0 + PROGRESS_SECONDS - now
        if wait > 0:
            return Outcome(requeue_after=wait)
    wanted["progressTime"] = format_time(now)
    patch = PatchStatus(wanted, raw.model["metadata"]["resourceVersion"])
    return Outcome((patch, *_events(raw.previous_status, status)))


def _events(before: MultiTaskModelStatus | None, after: MultiTaskModelStatus) -> Iterator[Action]:
    """One for every reason that is new; what Ready and Progressing both say is said once."""
    known = {(item.type, item.reason, item.status) for item in before.conditions} if before else set()
    said: set[str] = set()
    for item in after.conditions:
        if (item.type, item.reason, item.status) in known or item.reason in _QUIET | said:
            continue
        said.add(item.reason)
        yield Event("Warning" if _is_bad(item) else "Normal", item.reason, item.message)


def _is_bad(item: Condition) -> bool:
    good = ("Complete", "Trained", "Suspended", "TasksOutsideMixture", "NotJudged", "Queued", "Gated", "CleaningUp")
    return item.status == "False" and item.reason not in good


def _without_progress(status: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in status.items() if name not in ("progress", "progressTime", "stages")}
    stages = [{name: row[name] for name in row if name != "progress"} for row in status.get("stages") or ()]
    return kept | {"stages": stages}


def _progress_of(status: Mapping[str, Any]) -> tuple[Any, ...]:
    return (status.get("progress"), *(row.get("progress") for row in status.get("stages") or ()))


def _last(status: Mapping[str, Any]) -> float:
    return parse_time(status["progressTime"]) if "progressTime" in status else 0.0
