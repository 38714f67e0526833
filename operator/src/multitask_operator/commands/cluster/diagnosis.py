"""Why a model is where it is: exactly one reason, found in the order in which one hides the others. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import chain

from multitask_api.cluster import CLEAN_UP, REFRESH_ANNOTATION, RESOLVE, RUN
from multitask_api.errors import UserError
from multitask_api.resource.status import Condition
from multitask_operator.commands.cluster.below_threshold import below_threshold
from multitask_operator.commands.cluster.jobs import job_rows, stages_of
from multitask_operator.commands.cluster.model_view import (
    ModelView,
    condition_of,
    decided,
    gpu_resource,
    last_change,
    model_view,
)
from multitask_operator.formatting import duration
from multitask_operator.objects.actions import Create, Delete, PatchFinalizers
from multitask_operator.reconciler import Outcome, blockers
from multitask_operator.reconciler.cluster_state import ClusterState
from multitask_operator.reconciler.deletion import CLEANING_UP
from multitask_operator.reconciler.finalizers import has_finalizer, is_being_deleted
from multitask_operator.reconciler.planner_input import failed
from multitask_operator.reconciler.remediation import REMEDIATION, without_remediation
from multitask_operator.reconciler.retries import blocker_for_retry
from multitask_operator.reconciler.stage_job import StageJob, parse_time, stage_jobs
from multitask_operator.reconciler.telling import generation_of, previous_status

#: Seconds within which an operator that lives has acted.
PATIENCE = 60.0

_NEXT = {
    **REMEDIATION,
    "InvalidSpec": "correct what it names, and apply the resource again; a ConfigMap that was missing is noticed",
    "WriteRefused": "change the quota, policy or permission that it names; the operator tries again by itself",
    "Retrying": "wait; if it fails every time, the reason becomes StageFailed",
}


@dataclass(frozen=True)
class Diagnosis:
    """``blocked``: something is in the way; other work may go on beside it. The message may have several lines."""

    reason: str
    message: str
    next: str = ""
    blocked: bool = True
    stage: str | None = None
    job: str | None = None

    def to_json(self) -> dict[str, object]:
        """As data."""
        return {
            "blocked": self.blocked,
            "reason": self.reason,
            "message": self.message,
            "next": self.next,
            "stage": self.stage,
            "job": self.job,
        }


def diagnose(raw: ClusterState, now: float) -> Diagnosis:
    """The reason, ``now`` in Unix seconds."""
    assert raw.model is not None
    if is_being_deleted(raw.model):
        return next(_deleted(raw, now))
    try:
        outcome, status = decided(raw, now)
        shown = model_view(raw, now)
    except UserError as error:
        return Diagnosis("InvalidSpec", str(error), _NEXT["InvalidSpec"])
    ready = condition_of(status, "Ready")
    if ready is not None and ready.reason == "Suspended":
        resume = f'{_kubectl(raw)} patch mtm {raw.name} --type merge --patch \'{{"spec":{{"suspend":false}}}}\''
        return Diagnosis("Suspended", ready.message, resume)
    going = {each.name for each in outcome.actions if isinstance(each, Delete)}
    found = chain(_refused(raw), _blocker(raw, now), _failed(raw, shown, going), _not_acting(raw, outcome, now))
    return next(chain(found, _at_work(raw, now), _ended(raw, shown)))


def _deleted(raw: ClusterState, now: float) -> Iterator[Diagnosis]:
    """What a model that is being deleted waits for."""
    assert raw.model is not None
    if not has_finalizer(raw.model):
        yield Diagnosis("BeingDeleted", "the resource is being deleted", "wait, and apply it again if you want it")
    yield from _refused(raw)
    outcome, status = decided(raw, now)
    ready = condition_of(status, "Ready")
    if ready is not None and ready.reason != CLEANING_UP:
        then = "do what it says; the operator notices by itself"
        blocked = ready.reason != "Retrying"
        yield Diagnosis(ready.reason, ready.message, _NEXT.get(ready.reason, then), blocked, stage=CLEAN_UP)
    yield from _not_acting(raw, outcome, now)
    follow = f"mtm logs {raw.name} {CLEAN_UP} -f -n {raw.namespace}"
    yield Diagnosis(CLEANING_UP, ready.message if ready is not None else "", follow, blocked=False, stage=CLEAN_UP)


def _refused(raw: ClusterState) -> Iterator[Diagnosis]:
    """What the API server told the operator alone."""
    status = previous_status(raw)
    ready = condition_of(status, "Ready")
    if ready is not None and ready.reason == "WriteRefused" and ready.observed_generation == generation_of(raw):
        yield Diagnosis("WriteRefused", ready.message, _NEXT["WriteRefused"])


def _blocker(raw: ClusterState, now: float) -> Iterator[Diagnosis]:
    """What an operator that looked now would put into Ready, but for stages that failed."""
    _, status = decided(raw, now)
    ready = condition_of(status, "Ready")
    if ready is None or ready.reason in ("NotTrained", "Trained", "StageFailed", "ResolveFailed"):
        return
    # A claim hides what its pods wait for; what is said of pods is said of the first that waits.
    of_pod = next((unit for unit in _open_units(raw) if _says(unit, ready, raw)), None)
    yield Diagnosis(
        ready.reason,
        without_remediation(ready.reason, ready.message),
        _NEXT.get(ready.reason, "do what it says; the operator notices by itself"),
        blocked=ready.reason != "Retrying",
        stage=stages_of(of_pod)[0] if of_pod else None,
        job=of_pod.name if of_pod else None,
    )


def _failed(raw: ClusterState, shown: ModelView, going: Collection[str]) -> Iterator[Diagnosis]:
    """The first stage, or the look at the data, whose Job has failed for good; other work may go on beside it."""
    names = {each.log for each in shown.plan.failed}
    for unit in stage_jobs(raw, without=(RUN,)):
        looked = unit.kind == RESOLVE and unit.ended and not shown.current and _has_failed(unit)
        if unit.name in going or (unit.name not in names and not looked):
            continue
        failure = failed(unit).failure
        again = f"{_kubectl(raw)} annotate mtm {raw.name} {REFRESH_ANNOTATION}=$(date +%s) --overwrite"
        first = {
            "UserError": "repair what it names",
            "Retryable": "see that what it needs answers again",
            "Fault": f"read `mtm logs {raw.name} {failure.stage} -n {raw.namespace}`",
        }[failure.kind]
        yield Diagnosis(
            "ResolveFailed" if unit.kind == RESOLVE else "StageFailed",
            f"{failure.stage}: {failure.message}",
            f"{first}, then apply the resource again if you changed it, else `{again}`",
            stage=failure.stage,
            job=unit.name,
        )


def _not_acting(raw: ClusterState, outcome: Outcome, now: float) -> Iterator[Diagnosis]:
    """There is something to do that only the operator does."""
    todo = [each for each in outcome.actions if isinstance(each, Create | Delete | PatchFinalizers)]
    status = previous_status(raw)
    behind = status is None or status.observed_generation != generation_of(raw)
    if not todo and not behind:
        return
    if todo:
        what = f"the operator has to {_task(todo[-1])}"
    else:
        what = f"the operator has to look at generation {generation_of(raw)}"
    changed = last_change(raw)
    waited = now - parse_time(changed) if changed else 0.0
    if waited < PATIENCE:
        yield Diagnosis("OperatorActs", f"{what}, which takes seconds", "ask again in a moment", blocked=False)
        return
    yield Diagnosis(
        "OperatorNotActing",
        f"{what}, and nothing has happened for {duration(waited)}",
        "see whether its pod runs and serves this namespace: kubectl get pods -A -l"
        " app.kubernetes.io/name=multitask-operator",
    )


def _task(action: Create | Delete | PatchFinalizers) -> str:
    if isinstance(action, PatchFinalizers):
        return "add or remove its finalizer"
    return f"delete {action.name}" if isinstance(action, Delete) else f"create {action.obj['metadata']['name']}"


def _at_work(raw: ClusterState, now: float) -> Iterator[Diagnosis]:
    """Nothing is in the way: what is being done."""
    rows = [row for row in job_rows(raw, now) if row.state != "failed"]
    if rows:
        text = "\n".join(f"{row.name}: {row.doing or row.state}" for row in rows)
        first = rows[0]
        follow = f"mtm logs {raw.name} {first.stages[0]} -f -n {raw.namespace}"
        yield Diagnosis("StagesRunning", text, follow, False, first.stages[0], first.name)


def _ended(raw: ClusterState, shown: ModelView) -> Iterator[Diagnosis]:
    """Trained: whether every task reaches the bar."""
    if shown.plan.graph.finished:
        below = below_threshold(shown.model, shown.plan.graph)
        if below:
            following = f"mtm report {raw.name} -n {raw.namespace}"
            yield Diagnosis("TaskBelowBar", "\n".join(below), f"`{following}` shows every task", blocked=False)
        yield Diagnosis("Trained", "every stage is done, and every task reaches the bar", "", blocked=False)
    yield Diagnosis("Waiting", "nothing is at work and nothing is to be started", "ask again in a moment", False)


def _open_units(raw: ClusterState) -> list[StageJob]:
    return [unit for unit in stage_jobs(raw, without=(RUN,)) if blockers.is_open(unit)]


def _says(unit: StageJob, ready: Condition, raw: ClusterState) -> bool:
    """Whether the unit is the one that Ready speaks of."""
    found = blockers.blocker_for_job(unit, gpu_resource(raw), raw.warnings) or blocker_for_retry(unit)
    return found is not None and found.reason == ready.reason


def _has_failed(unit: StageJob) -> bool:
    conditions = (unit.job or {}).get("status", {}).get("conditions") or ()
    return any(each.get("type") == "Failed" and each.get("status") == "True" for each in conditions)


def _kubectl(raw: ClusterState) -> str:
    return f"kubectl -n {raw.namespace}"
