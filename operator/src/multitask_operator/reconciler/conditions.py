"""Conditions of a MultiTaskModel, and when its status is written: once a reconcile, and only if it changed. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from multitask_api.errors import UserError
from multitask_api.resource.status import Condition, MultiTaskModelStatus
from multitask_api.types import JsonObject
from multitask_operator.formatting import cut
from multitask_operator.reconciler.actions import RECHECK_SECONDS, Action, Event, PatchStatus, Result
from multitask_operator.reconciler.state.accessors import format_time, parse_time
from multitask_operator.reconciler.state.cluster_state import ClusterState

#: Most bytes of a condition's message. The schema's limit is 1024 characters; bytes are counted, because two of the
#: longest messages and the rows of 128 tasks have to fit into 48 KiB in any script: lists and watches carry the status.
MESSAGE_BYTES = 1024
#: Seconds between two status patches that change nothing but progress.
PROGRESS_SECONDS = 15.0

#: The condition of what is likely to disappoint. It is there only while it is True.
WARNING = "ConfigurationWarning"
#: A rollout posts Events of its own with these reasons, when it decides.
_OF_ROLLOUTS = frozenset(
    {
        "RolloutStarted",
        "RolloutPaused",
        "RolloutSuccessful",
        "RolloutFailed",
        "RolloutAborted",
        "ApprovalNeeded",
    }
)
_WITHOUT_EVENT = _OF_ROLLOUTS | {"NotTrained", "StagesRunning", "ServersStarting", "GatewaysBehind"}
#: A False condition posts a Warning Event, except for these reasons: they need nobody's attention.
_NORMAL_EVENT_REASONS = frozenset(
    {
        "Complete",
        "Trained",
        "Suspended",
        "TasksOutsideMixture",
        "NotJudged",
        "Queued",
        "Gated",
        "CleaningUp",
        "ScaledToZero",
    }
)


#: A Warning whatever the condition's status.
_WARNING_REASONS = frozenset({"ReadRefused"})


#: They repeat what Ready and Progressing say, for programs that wait: no Event of their own, and short messages.
_FOR_PROGRAMS = frozenset({"Trained", "Complete", "Failed", "Reconciling", "Stalled"})
_ONLY_WHILE_TRUE = ("Reconciling", "Stalled")
_SHORT_MESSAGE_BYTES = 256


class ConditionValue(NamedTuple):
    """Status, reason and message of a condition."""

    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str


def condition(
    type_: str, value: ConditionValue, previous: MultiTaskModelStatus | None, generation: int | None, now: float
) -> Condition:
    """The condition of that type, with the time since which it has this status; ``now`` in Unix seconds."""
    same = next((item for item in previous.conditions if item.type == type_), None) if previous else None
    since = same.last_transition_time if same is not None and same.status == value.status else None
    return Condition(
        type=type_,
        status=value.status,
        reason=value.reason,
        message=cut(value.message, MESSAGE_BYTES),
        observed_generation=generation,
        last_transition_time=since or format_time(now),
    )


def conditions_of(cluster: ClusterState, values: Mapping[str, ConditionValue], now: float) -> tuple[Condition, ...]:
    """The conditions of the model's generation, ``values`` by condition type; ``now`` in Unix seconds."""
    previous, generation = cluster.previous_status, cluster.generation
    return tuple(condition(type_, value, previous, generation, now) for type_, value in values.items())


class Outcome(Enum):
    """How far the present generation of a model has come."""

    WORKING = "working"  # or waiting for what comes by itself
    SUSPENDED = "suspended"
    STALLED = "stalled"  # somebody has to change something outside of the resource; it then goes on by itself
    FAILED = "failed"  # it goes on after an edit or a refresh only
    COMPLETE = "complete"


def outcome_conditions(outcome: Outcome, value: ConditionValue, result: str | None = None) -> dict[str, ConditionValue]:
    """What programs wait for: ``Trained``, ``Complete`` and ``Failed`` for ``kubectl wait``, ``Reconciling`` and
    ``Stalled`` as kstatus knows them, which are there only while they are true.

    ``value`` says why; ``result`` is that of a complete training, None if it was not promoted.
    """
    message = cut(value.message, _SHORT_MESSAGE_BYTES)
    because = ConditionValue("Unknown" if outcome is Outcome.SUSPENDED else "False", value.reason, message)
    is_true = ConditionValue("True", value.reason, message)
    conditions = {"Trained": because, "Complete": because, "Failed": because._replace(status="False")}
    match outcome:
        case Outcome.COMPLETE:
            complete = ConditionValue("True", "Complete", "Every stage is done.")
            trained = ConditionValue("True", "Trained", f"Result {result} is trained.")
            if result is None:
                text = "There is no new result: qualification.promote is AllQualified, and not every task qualifies."
                trained = ConditionValue("False", "NotPromoted", text)
            conditions = {"Trained": trained, "Complete": complete, "Failed": complete._replace(status="False")}
        case Outcome.FAILED:
            conditions |= {"Failed": is_true, "Stalled": is_true}
        case Outcome.STALLED:
            conditions["Stalled"] = is_true
        case Outcome.WORKING:
            conditions["Reconciling"] = is_true
    return conditions


def with_conditions(
    cluster: ClusterState,
    ready: ConditionValue,
    progressing: ConditionValue,
    stage: str,
    progress: str | None,
    now: float,
    outcome: Mapping[str, ConditionValue] = MappingProxyType({}),
) -> MultiTaskModelStatus:
    """The previous status with other conditions, stage and progress. ``outcome``: see `outcome_conditions`; of those
    that it leaves out, the ones that are there only while they are true go."""
    previous = cluster.previous_status or MultiTaskModelStatus()
    values = {"Ready": ready, "Progressing": progressing, **outcome}
    kept = tuple(item for item in previous.conditions if item.type not in (*values, *_ONLY_WHILE_TRUE))
    return previous.model_copy(
        update={
            "observed_generation": cluster.generation,
            "conditions": conditions_of(cluster, values, now) + kept,
            "stage": stage,
            "progress": progress,
        }
    )


def invalid_spec(cluster: ClusterState, error: UserError, now: float, ready: ConditionValue | None = None) -> Result:
    """For a spec that cannot be carried out: the status keeps what it showed, and its conditions give the ``error``.

    ``ready``: what is true in spite of it, because servers answer.
    """
    value = ConditionValue("False", "InvalidSpec", str(error))
    # A ConfigMap may come after the resource that refers to it: that is no failure yet.
    may_come = any(item is None for item in cluster.referenced_configmaps.values())
    outcome = outcome_conditions(Outcome.STALLED if may_come else Outcome.FAILED, value)
    update = status_update(
        cluster, with_conditions(cluster, ready or value, value, "InvalidSpec", None, now, outcome), now
    )
    return Result(update.actions, RECHECK_SECONDS if cluster.referenced_configmaps else None)


def read_refused_status(cluster: ClusterState, message: str, now: float) -> Result:
    """For a model about which not all may be read: nothing is known of it, and the ``message`` says what to grant."""
    value = ConditionValue("Unknown", "ReadRefused", message)
    outcome = {"Stalled": ConditionValue("True", value.reason, cut(message, _SHORT_MESSAGE_BYTES))}
    return status_update(cluster, with_conditions(cluster, value, value, "Blocked", None, now, outcome), now)


def status_update(cluster: ClusterState, status: MultiTaskModelStatus, now: float) -> Result:
    """The patch that makes the resource's status ``status``, and the Events that go with it."""
    before: JsonObject = cluster.model.get("status") or {}
    wanted = status.to_json()
    if _without_progress(before) == _without_progress(wanted):
        if _progress_of(before) == _progress_of(wanted):
            return Result()
        # The timestamp has whole seconds: that write may have been almost one later.
        wait = _written_at(before, now) + 1.0 + PROGRESS_SECONDS - now
        if wait > 0:
            return Result(requeue_after=wait)
    wanted["progressTime"] = format_time(now)
    patch = PatchStatus(wanted, cluster.model["metadata"]["resourceVersion"])
    return Result((patch, *_events(cluster.previous_status, status)))


def _events(before: MultiTaskModelStatus | None, after: MultiTaskModelStatus) -> Iterator[Action]:
    """One for every new reason; a reason that several conditions have gets one Event."""
    known = {(item.type, item.reason, item.status) for item in before.conditions} if before else set()
    posted: set[str] = set()
    for item in after.conditions:
        is_known = (item.type, item.reason, item.status) in known or item.reason in _WITHOUT_EVENT | posted
        if is_known or item.type in _FOR_PROGRAMS:
            continue
        posted.add(item.reason)
        is_warning = (
            item.type == WARNING
            or item.reason in _WARNING_REASONS
            or (item.status == "False" and item.reason not in _NORMAL_EVENT_REASONS)
        )
        yield Event("Warning" if is_warning else "Normal", item.reason, item.message)


def _without_progress(status: JsonObject) -> dict[str, Any]:
    kept = {name: value for name, value in status.items() if name not in ("progress", "progressTime", "stages")}
    stages = [{name: row[name] for name in row if name != "progress"} for row in status.get("stages") or ()]
    return kept | {"stages": stages}


def _progress_of(status: JsonObject) -> tuple[Any, ...]:
    return (status.get("progress"), *(row.get("progress") for row in status.get("stages") or ()))


def _written_at(status: JsonObject, now: float) -> float:
    """When progress was last written; 0 if that is not known. What others wrote into the status must not stop ours."""
    try:
        written = parse_time(status["progressTime"])
    except (KeyError, TypeError, ValueError):
        return 0.0
    return written if written <= now else 0.0
