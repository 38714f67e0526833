"""What a rollout decides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from multitask_api.routes import RejectedRevision, RolloutState, ServedRevision, TaskRouteSpec


@dataclass(frozen=True)
class GoldenJob:
    """A Job that sends golden requests to a revision through the gateways, and compares the answers."""

    revision: str
    key: str
    """Names the Job within the revision: the same key is the same Job, whose report is used while it exists."""
    tasks: tuple[str, ...]
    previous: str
    """The revision that the answers are compared with; empty: none."""


@dataclass(frozen=True)
class RolloutEvent:
    """An Event about the model, posted after the TaskRoute is written."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True)
class RolloutDecision:
    """The TaskRoute as it should be, and what else is to be done. Equal to what stands there: nothing to write."""

    spec: TaskRouteSpec | None
    """None: there is nothing to route yet."""
    rollout: RolloutState | None
    rejected: tuple[RejectedRevision, ...]
    served: tuple[ServedRevision, ...]
    live: frozenset[str]
    """The revisions that need servers, or still have requests under way. All others may go."""
    reason: str
    """One CamelCase word for a condition."""
    message: str
    """One sentence: what goes on, and what is in the way."""
    is_progressing: bool
    """Whether something is still to come without anybody's help, or is waited for."""
    golden: GoldenJob | None = None
    events: tuple[RolloutEvent, ...] = ()
    servers: Mapping[str, int] = field(default_factory=dict)
    """Revision → the servers that it is to have, if it gives way to another one; all others: as the spec says."""
    requeue_after: float | None = None
    """Seconds until the next decision, should nothing happen before."""
    approval: str | None = None
    """The id that the approval annotation has to be; None: nothing waits for approval."""
