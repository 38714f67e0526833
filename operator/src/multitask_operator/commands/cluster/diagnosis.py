"""Why a model is in its present state: exactly one reason. Reasons that hide others are checked first. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import chain

from multitask_api.cluster import CLEAN_UP, REFRESH_ANNOTATION, RESOLVE, RUN
from multitask_api.errors import UserError
from multitask_api.resource.status import Condition
from multitask_operator.cluster.observe import OPERATOR_CHILDREN
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
from multitask_operator.reconciler import Result, blockers, deletion, reconcile_spec, refusals, stalls
from multitask_operator.reconciler.actions import Create, Delete, PatchFinalizers
from multitask_operator.reconciler.blockers import REMEDIATION, without_remediation
from multitask_operator.reconciler.finalizers import finalizer_patch, has_finalizer
from multitask_operator.reconciler.state.accessors import is_being_deleted, parse_time
from multitask_operator.reconciler.state.cluster_state import ClusterState
from multitask_operator.reconciler.state.model_state import ModelState
from multitask_operator.reconciler.state.planner_input import failure_of
from multitask_operator.reconciler.state.stage_job import StageJob, stage_jobs

#: Seconds within which a running operator has acted.
OPERATOR_REACTION_SECONDS = 60.0

_NEXT = {
    **REMEDIATION,
    "InvalidSpec": "correct what the message names, and apply the resource again; a new ConfigMap is noticed by itself",
    "WriteRefused": "change the quota, policy or permission that the message names; the operator tries again by itself",
    "RolloutPaused": "`mtm rollout resume NAME` goes on, `mtm rollout abort NAME` gives all tasks back",
    "ScaledToZero": "set spec.serving.replicas to 1 or more, for example with kubectl scale mtm NAME --replicas=1",
    "Retrying": "wait; if every attempt fails, the reason becomes StageFailed",
}
#: Reasons of Ready for which nobody has to act: servers start, or exchange places as the resource allows.
_PASSING_REASONS = frozenset({"ServersStarting", "AllowedDowntime"})
_DEFAULT_NEXT = "do what the message says; the operator notices it by itself"

#: Kinds of children that are not read with a person's permissions.
_UNSEEN_KINDS = frozenset(kind for _, kind in OPERATOR_CHILDREN.values())


@dataclass(frozen=True)
class Diagnosis:
    """``blocked``: somebody has to act; other stages may still run. The message may have several lines."""

    reason: str
    message: str
    next: str = ""
    blocked: bool = True
    stage: str | None = None
    job: str | None = None

    def to_json(self) -> dict[str, object]:
        """As ``mtm explain --output json`` prints it."""
        return {
            "blocked": self.blocked,
            "reason": self.reason,
            "message": self.message,
            "next": self.next,
            "stage": self.stage,
            "job": self.job,
        }


def diagnose(cluster: ClusterState, now: float) -> Diagnosis:
    """The first reason that holds, ``now`` in Unix seconds."""
    if is_being_deleted(cluster.model):
        return next(_being_deleted(cluster, now))
    # Without the written status: the reason is what the operator would write now, whatever it wrote before.
    bare = cluster.without_status()
    try:
        state = ModelState.of(bare, now)
    except UserError as error:
        return Diagnosis("InvalidSpec", str(error), _NEXT["InvalidSpec"])
    patch = finalizer_patch(bare.model)
    result = reconcile_spec(state, reader_settings(bare)) if patch is None else Result((patch,))
    ready = condition_of(status_of(result), "Ready")
    if ready is not None and ready.reason == "Suspended":
        resume = f'{_kubectl(cluster)} patch mtm {cluster.name} --type merge --patch \'{{"spec":{{"suspend":false}}}}\''
        return Diagnosis("Suspended", ready.message, resume)
    deleted = {action.name for action in result.actions if isinstance(action, Delete)}
    reasons = chain(
        _rejected_write(cluster),
        _blocker(cluster, ready, now),
        _failed_stage(state, deleted),
        _waiting_for_operator(cluster, result, now),
        _running(cluster, now),
        _finished(state, ready),
    )
    return next(reasons)


def _being_deleted(cluster: ClusterState, now: float) -> Iterator[Diagnosis]:
    """What a model that is being deleted waits for."""
    if not has_finalizer(cluster.model):
        yield Diagnosis("BeingDeleted", "the resource is being deleted", "wait; apply it again if you still want it")
    yield from _rejected_write(cluster)
    bare = cluster.without_status()
    result = deletion.reconcile(bare, reader_settings(bare), now)
    ready = condition_of(status_of(result), "Ready")
    if ready is not None and ready.reason != deletion.CLEANING_UP:
        blocked = ready.reason != "Retrying"
        yield Diagnosis(ready.reason, ready.message, _NEXT.get(ready.reason, _DEFAULT_NEXT), blocked, stage=CLEAN_UP)
    yield from _waiting_for_operator(cluster, result, now)
    follow = f"mtm logs {cluster.name} {CLEAN_UP} -f -n {cluster.namespace}"
    yield Diagnosis(
        deletion.CLEANING_UP, ready.message if ready is not None else "", follow, blocked=False, stage=CLEAN_UP
    )


def _rejected_write(cluster: ClusterState) -> Iterator[Diagnosis]:
    """A write of the operator that the API server rejected: only the written status has it."""
    status = cluster.previous_status
    ready = condition_of(status, "Ready")
    if ready is not None and ready.reason == "WriteRefused" and ready.observed_generation == cluster.generation:
        yield Diagnosis("WriteRefused", ready.message, refusals.next_step(ready.message) or _NEXT["WriteRefused"])


def _blocker(cluster: ClusterState, ready: Condition | None, now: float) -> Iterator[Diagnosis]:
    """What the operator would write into Ready now, except failed stages."""
    if ready is None or ready.reason in ("NotTrained", "Trained", "StageFailed", "ResolveFailed"):
        return
    if ready.status == "True" or ready.reason in _PASSING_REASONS:
        follow = f"mtm rollout status {cluster.name} -n {cluster.namespace}"
        next_step = "" if ready.status == "True" else f"wait; `{follow}` shows how far it is"
        yield Diagnosis(ready.reason, ready.message, next_step, blocked=False)
    # If no Job has this reason, it concerns all of them: a claim, for instance.
    job = next((job for job in _open_jobs(cluster) if _is_reason_of(job, ready, cluster, now)), None)
    yield Diagnosis(
        ready.reason,
        without_remediation(ready.reason, ready.message),
        _next_step(ready),
        blocked=ready.reason != "Retrying",
        stage=stages_of(job)[0] if job else None,
        job=job.name if job else None,
    )


def _next_step(ready: Condition) -> str:
    """What helps a stage is in the message about one; servers have other settings, and their message names them."""
    remediation = REMEDIATION.get(ready.reason)
    if remediation is not None:
        return remediation if ready.message.endswith(remediation) else _DEFAULT_NEXT
    return _NEXT.get(ready.reason, _DEFAULT_NEXT)


def _failed_stage(state: ModelState, deleted: Collection[str]) -> Iterator[Diagnosis]:
    """The first stage, or resolve, whose Job has failed for good. Other stages may still run."""
    cluster = state.cluster
    failures = {failed.log: failed.failure for failed in reversed(state.plan.failed)}
    for stage_job in stage_jobs(cluster, without=(RUN,)):
        unresolved = stage_job.kind == RESOLVE and stage_job.has_failed and not state.is_resolved
        if stage_job.name in deleted or (stage_job.name not in failures and not unresolved):
            continue
        failure = failures.get(stage_job.name) or failure_of(stage_job).failure
        retry = _refresh(cluster)
        first_step = {
            "UserError": "correct what the message names",
            "Retryable": "make sure that the service it needs is reachable again",
            "Fault": f"read `mtm logs {cluster.name} {failure.stage} -n {cluster.namespace}`",
        }[failure.kind]
        yield Diagnosis(
            "ResolveFailed" if stage_job.kind == RESOLVE else "StageFailed",
            f"{failure.stage}: {failure.message}",
            f"{first_step}, then apply the resource again if you changed it, else run `{retry}`",
            stage=failure.stage,
            job=stage_job.name,
        )


def _waiting_for_operator(cluster: ClusterState, result: Result, now: float) -> Iterator[Diagnosis]:
    """The operator has something to do."""
    pending = [
        action
        for action in result.actions
        if isinstance(action, Create | Delete | PatchFinalizers) and not _is_unseen(action)
    ]
    status = cluster.previous_status
    behind = status is None or status.observed_generation != cluster.generation
    if not pending and not behind:
        return
    task = _describe_action(pending[-1]) if pending else f"process generation {cluster.generation}"
    changed = last_change(cluster)
    waited = now - parse_time(changed) if changed else 0.0
    if waited < OPERATOR_REACTION_SECONDS:
        yield Diagnosis(
            "OperatorActs", f"the operator has to {task}, which takes seconds", "ask again in a moment", blocked=False
        )
        return
    yield Diagnosis(
        "OperatorNotActing",
        f"the operator has to {task}, and nothing has happened for {duration(waited)}",
        "check that its pod runs and watches this namespace: kubectl get pods -A -l"
        " app.kubernetes.io/name=multitask-operator",
    )


def _is_unseen(action: Create | Delete | PatchFinalizers) -> bool:
    """Whether it is about a kind that a viewer does not read: such an object looks missing, and may well exist."""
    kind = action.obj["kind"] if isinstance(action, Create) else action.kind if isinstance(action, Delete) else None
    return kind in _UNSEEN_KINDS


def _describe_action(action: Create | Delete | PatchFinalizers) -> str:
    if isinstance(action, PatchFinalizers):
        return "add or remove its finalizer"
    return f"delete {action.name}" if isinstance(action, Delete) else f"create {action.obj['metadata']['name']}"


def _running(cluster: ClusterState, now: float) -> Iterator[Diagnosis]:
    """Jobs run, and nothing blocks them."""
    rows = [row for row in job_rows(cluster, now) if row.state != "failed"]
    if rows:
        text = "\n".join(f"{row.name}: {row.detail or row.state}" for row in rows)
        first = rows[0]
        follow = f"mtm logs {cluster.name} {first.stages[0]} -f -n {cluster.namespace}"
        yield Diagnosis("StagesRunning", text, follow, False, first.stages[0], first.name)


def _finished(state: ModelState, ready: Condition | None) -> Iterator[Diagnosis]:
    """Every stage is done: whether every task reaches the threshold, and what ``ready`` says of the servers. Otherwise
    there is nothing to say.
    """
    if state.plan.graph.finished:
        below = below_threshold(state.model, state.plan.graph)
        if below:
            report = f"mtm report {state.cluster.name} -n {state.cluster.namespace}"
            yield Diagnosis("TaskBelowBar", "\n".join(below), f"`{report}` shows every task", blocked=False)
        next_step = (
            "" if state.run.is_of_this_release else f"nothing; to train with this release: `{_refresh(state.cluster)}`"
        )
        done = "every stage is done, and every task reaches the threshold"
        served = f". {ready.message}" if ready is not None and ready.reason == "Trained" else ""
        yield Diagnosis("Trained", f"{done}{served}", next_step, blocked=False)
    yield Diagnosis("Waiting", "no stage runs, and none can start now", "ask again in a moment", False)


def _open_jobs(cluster: ClusterState) -> list[StageJob]:
    return [job for job in stage_jobs(cluster, without=(RUN,)) if job.is_open]


def _is_reason_of(job: StageJob, ready: Condition, cluster: ClusterState, now: float) -> bool:
    """Whether this Job is why Ready has its reason."""
    found = (
        blockers.job_blocked(job, gpu_resource(cluster), cluster.warnings),
        blockers.retrying(job),
        stalls.stalled(job, now),
        stalls.not_scheduled(job.pods, now),
    )
    return any(blocker is not None and blocker.reason == ready.reason for blocker in found)


def _refresh(cluster: ClusterState) -> str:
    return f"{_kubectl(cluster)} annotate mtm {cluster.name} {REFRESH_ANNOTATION}=$(date +%s) --overwrite"


def _kubectl(cluster: ClusterState) -> str:
    return f"kubectl -n {cluster.namespace}"
