"""What one reconciler adds to the reconcile of a model, and how the additions of several become one result. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from multitask_api.resource.status import MultiTaskModelStatus
from multitask_operator.reconciler.actions import Action, Delete, Event, Result, earliest
from multitask_operator.reconciler.conditions import WARNING, ConditionValue, conditions_of, status_update
from multitask_operator.reconciler.state.cluster_state import ClusterState


@dataclass(frozen=True)
class StatusPart:
    """What one reconciler knows of the status."""

    conditions: Mapping[str, ConditionValue]
    """Condition type → value."""
    fields: Mapping[str, object] = field(default_factory=dict)
    """Other fields of `MultiTaskModelStatus`, by their Python names."""


@dataclass(frozen=True)
class Contribution:
    """What one reconciler, training for example, wants done. It writes no status and no Events itself."""

    deletes: tuple[Delete, ...]
    creations: tuple[Action, ...]
    status: StatusPart
    requeue_after: float | None
    """Seconds until the reconciler has to run again without a watch event."""
    events: tuple[Event, ...] = ()
    """What it says about ``deletes`` and ``creations``; the conditions have Events of their own."""


def combine(cluster: ClusterState, contributions: Sequence[Contribution], now: float) -> Result:
    """All deletions, then all creations with their Events, then one status with its own.

    The status may be out of date, because an autoscaler or a person has just written the model: what was done before is
    not done again, so that its Events would be lost after it.
    """
    status = model_status(cluster, [contribution.status for contribution in contributions], now)
    update = status_update(cluster, status, now)
    deletes = (delete for contribution in contributions for delete in contribution.deletes)
    creations = (action for contribution in contributions for action in contribution.creations)
    events = (event for contribution in contributions for event in contribution.events)
    return Result(
        (*deletes, *creations, *events, *update.actions),
        earliest(update.requeue_after, *(contribution.requeue_after for contribution in contributions)),
    )


def model_status(cluster: ClusterState, parts: Sequence[StatusPart], now: float) -> MultiTaskModelStatus:
    """One status of all parts. Where two give the same condition or field, the later part decides; of warnings the
    first gives the reason, and each its message."""
    values: dict[str, ConditionValue] = {}
    fields: dict[str, object] = {}
    for part in parts:
        first, more = values.get(WARNING), part.conditions.get(WARNING)
        values |= part.conditions
        if first is not None and more is not None:
            values[WARNING] = first._replace(message=f"{first.message}; {more.message}")
        fields |= part.fields
    own = {"observed_generation": cluster.generation, "conditions": conditions_of(cluster, values, now)}
    return MultiTaskModelStatus.model_validate(fields | own, by_name=True)
