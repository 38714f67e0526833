"""A decision in the making: what each part adds to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from multitask_api.routes import RejectedRevision, RolloutState, TaskRollout
from multitask_operator.formatting import cut
from multitask_operator.rollout.candidate import reject
from multitask_operator.rollout.decision import GoldenJob, RolloutEvent
from multitask_operator.rollout.inputs import RolloutInput, format_time
from multitask_operator.rollout.plan import Step

R = TypeVar("R", RolloutState, TaskRollout)

MESSAGE_BYTES = 500

WAITING_FOR_OTHERS = "WaitingForOtherModels"
"""The reason of a rollout that may begin once fewer models roll out."""
_QUEUE_RECHECK_SECONDS = 30.0


@dataclass(frozen=True)
class Draft:
    """Frozen; every part returns another one."""

    state: RolloutState | None
    rejected: tuple[RejectedRevision, ...]
    step: Step | None = None
    """The step under way, None before the first one."""
    moved: Mapping[str, str] = field(default_factory=dict)
    """Task → the revision that gets all of it at once, outside of the rollout."""
    reason: str = ""
    message: str = ""
    is_progressing: bool = False
    golden: GoldenJob | None = None
    events: tuple[RolloutEvent, ...] = ()
    requeue_after: float | None = None
    approval: str | None = None
    is_short: bool = False
    """Whether the revision that is rolled out needs a further server before it can go on."""

    def waiting(self, reason: str, message: str, requeue_after: float | None = None) -> Draft:
        """It goes on as soon as that is over."""
        return replace(self, reason=reason, message=message, is_progressing=True, requeue_after=requeue_after)

    def waiting_for_others(self, message: str) -> Draft:
        """It goes on once other models have left it a place."""
        return self.waiting(WAITING_FOR_OTHERS, message, _QUEUE_RECHECK_SECONDS)

    def with_state(self, state: RolloutState, **fields: object) -> Draft:
        """With that state, and some of its fields changed."""
        return replace(self, state=changed(state, **fields))

    def event(self, reason: str, message: str, *, warning: bool = False) -> Draft:
        """With one more Event."""
        return replace(self, events=(*self.events, RolloutEvent("Warning" if warning else "Normal", reason, message)))


def changed(record: R, **fields: object) -> R:
    """The state, or a task's row in it, with other values, checked; a message is cut to what its field takes."""
    if isinstance(fields.get("message"), str):
        fields["message"] = cut(str(fields["message"]), MESSAGE_BYTES)
    return type(record).model_validate(record.model_dump() | fields, by_name=True)


def finish(draft: Draft, inp: RolloutInput, state: RolloutState, phase: str, message: str) -> Draft:
    """The rollout is over. What has not failed has the revision, or has its old one back."""
    ended = "Successful" if phase == "Successful" else "Excluded"
    rows = [changed(row, phase=ended) if row.phase in OPEN else row for row in state.tasks]
    weight = 100 if phase == "Successful" else 0
    over = changed(state, phase=phase, message=message, weight=weight, finished=format_time(inp.now), tasks=rows)
    done = replace(draft, state=over, step=None, is_progressing=phase == "Successful", requeue_after=0.0)
    reason = f"Rollout{phase}"
    return replace(done.event(reason, message, warning=phase != "Successful"), reason=reason, message=message)


def await_approval(draft: Draft, state: RolloutState, wanted: str, message: str) -> Draft:
    """It waits for a person, who says yes by the id ``wanted``."""
    if state.phase != "Paused" or wanted not in state.message:
        draft = draft.event("ApprovalNeeded", message)
    draft = replace(draft.with_state(state, phase="Paused", message=message), approval=wanted)
    return draft.waiting("ApprovalNeeded", message)


def reject_revision(
    draft: Draft, inp: RolloutInput, revision: str, reason: str, message: str, tasks: tuple[str, ...] = ("",)
) -> Draft:
    """Neither the tasks nor, without any, the revision as a whole are tried again by themselves."""
    time = format_time(inp.now)
    new = [
        RejectedRevision(revision=revision, task=task, reason=reason, message=cut(message, MESSAGE_BYTES), time=time)
        for task in tasks
    ]
    return replace(draft, rejected=reject(draft.rejected, *new))


OPEN = frozenset({"Running", "Inconclusive", "Error"})
"""Phases of a task that takes part in the step under way."""


def open_rows(state: RolloutState) -> list[TaskRollout]:
    """The tasks that take part in the step under way."""
    return [row for row in state.tasks if row.phase in OPEN]
