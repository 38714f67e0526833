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
    condition_of,
    gpu_resource,
    last_change,
    reader_settings,
    status_of,
)
from multitask_operator.formatting import duration
from multitask_operator.reconciler import Result, blockers, deletion, training
from multitask_operator.reconciler.actions import Create, Delete, PatchFinalizers
from multitask_operator.reconciler.blockers import REMEDIATION, without_remediation
from multitask_operator.reconciler.finalizers import finalizer_patch, has_finalizer
from multitask_operator.reconciler.state.accessors import is_being_deleted, parse_time, true_condition
from multitask_operator.reconciler.state.cluster_state import ClusterState
from multitask_operator.reconciler.state.model_state import ModelState
from multitask_operator.reconciler.state.planner_input import failure_of
from multitask_operator.reconciler.state.stage_job import StageJob, stage_jobs

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


def diagnose(cluster: ClusterState, now: float) -> Diagnosis:
    """The reason, ``now`` in Unix seconds."""
    if is_being_deleted(cluster.model):
        return next(_deleted(cluster, now))
    # Without the status that stands: what the operator would write now says why, whatever it wrote before.
    bare = cluster.without_status()
    try:
        state = ModelState.of(bare, now)
    except UserError as error:
        return Diagnosis("InvalidSpec", str(error), _NEXT["InvalidSpec"])
    patch = finalizer_patch(bare.model)
    outcome = training.reconcile(state, reader_settings(bare)) if patch is None else Result((patch,))
    ready = condition_of(status_of(outcome), "Ready")
    if ready is not None and ready.reason == "Suspended":
        resume = f'{_kubectl(cluster)} patch mtm {cluster.name} --type merge --patch \'{{"spec":{{"suspend":false}}}}\''
        return Diagnosis("Suspended", ready.message, resume)
    deleted = {action.name for action in outcome.actions if isinstance(action, Delete)}
    reasons = chain(
        _refused(cluster),
        _blocker(cluster, ready),
        _failed(state, deleted),
        _not_acting(cluster, outcome, now),
        _at_work(cluster, now),
        _ended(state),
    )
    return next(reasons)


def _deleted(cluster: ClusterState, now: float) -> Iterator[Diagnosis]:
    """What a model that is being deleted waits for."""
    if not has_finalizer(cluster.model):
        yield Diagnosis("BeingDeleted", "the resource is being deleted", "wait, and apply it again if you want it")
    yield from _refused(cluster)
    bare = cluster.without_status()
    outcome = deletion.reconcile(bare, reader_settings(bare), now)
    ready = condition_of(status_of(outcome), "Ready")
    if ready is not None and ready.reason != deletion.CLEANING_UP:
        then = "do what it says; the operator notices by itself"
        blocked = ready.reason != "Retrying"
        yield Diagnosis(ready.reason, ready.message, _NEXT.get(ready.reason, then), blocked, stage=CLEAN_UP)
    yield from _not_acting(cluster, outcome, now)
    follow = f"mtm logs {cluster.name} {CLEAN_UP} -f -n {cluster.namespace}"
    yield Diagnosis(
        deletion.CLEANING_UP, ready.message if ready is not None else "", follow, blocked=False, stage=CLEAN_UP
    )


def _refused(cluster: ClusterState) -> Iterator[Diagnosis]:
    """What the API server told the operator alone."""
    status = cluster.previous_status
    ready = condition_of(status, "Ready")
    if ready is not None and ready.reason == "WriteRefused" and ready.observed_generation == cluster.generation:
        yield Diagnosis("WriteRefused", ready.message, _NEXT["WriteRefused"])


def _blocker(cluster: ClusterState, ready: Condition | None) -> Iterator[Diagnosis]:
    """What the operator would put into Ready now, but for stages that failed."""
    if ready is None or ready.reason in ("NotTrained", "Trained", "StageFailed", "ResolveFailed"):
        return
    # A claim hides what its pods wait for; of pods, the message is about the first that waits.
    job = next((job for job in _open_jobs(cluster) if _is_reason_of(job, ready, cluster)), None)
    yield Diagnosis(
        ready.reason,
        without_remediation(ready.reason, ready.message),
        _NEXT.get(ready.reason, "do what it says; the operator notices by itself"),
        blocked=ready.reason != "Retrying",
        stage=stages_of(job)[0] if job else None,
        job=job.name if job else None,
    )


def _failed(state: ModelState, deleted: Collection[str]) -> Iterator[Diagnosis]:
    """The first stage, or resolve, whose Job has failed for good; other work may go on beside it."""
    cluster = state.cluster
    names = {failure.log for failure in state.plan.failed}
    for unit in stage_jobs(cluster, without=(RUN,)):
        unresolved = (
            unit.kind == RESOLVE
            and unit.is_finished
            and not state.is_resolved
            and true_condition(unit.job, "Failed") is not None
        )
        if unit.name in deleted or (unit.name not in names and not unresolved):
            continue
        failure = failure_of(unit).failure
        again = f"{_kubectl(cluster)} annotate mtm {cluster.name} {REFRESH_ANNOTATION}=$(date +%s) --overwrite"
        first = {
            "UserError": "repair what it names",
            "Retryable": "see that what it needs answers again",
            "Fault": f"read `mtm logs {cluster.name} {failure.stage} -n {cluster.namespace}`",
        }[failure.kind]
        yield Diagnosis(
            "ResolveFailed" if unit.kind == RESOLVE else "StageFailed",
            f"{failure.stage}: {failure.message}",
            f"{first}, then apply the resource again if you changed it, else `{again}`",
            stage=failure.stage,
            job=unit.name,
        )


def _not_acting(cluster: ClusterState, outcome: Result, now: float) -> Iterator[Diagnosis]:
    """There is something to do that only the operator does."""
    todo = [each for each in outcome.actions if isinstance(each, Create | Delete | PatchFinalizers)]
    status = cluster.previous_status
    behind = status is None or status.observed_generation != cluster.generation
    if not todo and not behind:
        return
    if todo:
        what = f"the operator has to {_task(todo[-1])}"
    else:
        what = f"the operator has to look at generation {cluster.generation}"
    changed = last_change(cluster)
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


def _at_work(cluster: ClusterState, now: float) -> Iterator[Diagnosis]:
    """Nothing is in the way: what is being done."""
    rows = [row for row in job_rows(cluster, now) if row.state != "failed"]
    if rows:
        text = "\n".join(f"{row.name}: {row.doing or row.state}" for row in rows)
        first = rows[0]
        follow = f"mtm logs {cluster.name} {first.stages[0]} -f -n {cluster.namespace}"
        yield Diagnosis("StagesRunning", text, follow, False, first.stages[0], first.name)


def _ended(state: ModelState) -> Iterator[Diagnosis]:
    """Trained: whether every task reaches the bar."""
    if state.plan.graph.finished:
        below = below_threshold(state.model, state.plan.graph)
        if below:
            following = f"mtm report {state.cluster.name} -n {state.cluster.namespace}"
            yield Diagnosis("TaskBelowBar", "\n".join(below), f"`{following}` shows every task", blocked=False)
        yield Diagnosis("Trained", "every stage is done, and every task reaches the bar", "", blocked=False)
    yield Diagnosis("Waiting", "nothing is at work and nothing is to be started", "ask again in a moment", False)


def _open_jobs(cluster: ClusterState) -> list[StageJob]:
    return [job for job in stage_jobs(cluster, without=(RUN,)) if job.is_open]


def _is_reason_of(job: StageJob, ready: Condition, cluster: ClusterState) -> bool:
    """Whether Ready speaks of this Job."""
    blocker = blockers.job_blocked(job, gpu_resource(cluster), cluster.warnings) or blockers.retrying(job)
    return blocker is not None and blocker.reason == ready.reason


def _kubectl(cluster: ClusterState) -> str:
    return f"kubectl -n {cluster.namespace}"
