"""Which revision the traffic is to move to, and which tasks may."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import NamedTuple

from multitask_api.resource.serving import Serving
from multitask_api.routes import Backend, RejectedRevision
from multitask_api.serving_io.revision import Revision, RevisionTask
from multitask_operator.formatting import listed
from multitask_operator.rollout.inputs import LiveRevision, RolloutInput
from multitask_operator.rollout.orders import rollback_to

MOST_REJECTED = 256


class Candidate(NamedTuple):
    """The revision that is wanted. ``problem``: why there is none."""

    revision: LiveRevision | None
    is_pinned: bool = False
    """A person wants a revision that is not the newest."""
    is_rollback: bool = False
    """It has served all its tasks before, except those that it was rejected for: no time is lost on steps."""
    problem: str = ""


def choose(inp: RolloutInput) -> Candidate:
    """The revision of the rollback annotation, else the pinned one of the spec, else the newest."""
    pinned = rollback_to(inp.annotations) or inp.serving.pinned_revision
    if pinned is None:
        if inp.newest is None:
            return Candidate(None, problem="nothing is trained yet")
        return Candidate(inp.revision(inp.newest), problem=f"revision {inp.newest} has no record yet")
    names = (item for item in reversed(inp.revisions) if pinned in (item.name, item.record.trained))
    revision = next(names, None)
    if revision is None:
        known = listed([item.name for item in inp.revisions]) or "none"
        return Candidate(None, problem=f"there is no revision {pinned} to go back to; kept: {known}")
    is_pinned = revision.name != inp.newest
    return Candidate(revision, is_pinned, is_pinned and _has_served(inp, revision))


def _has_served(inp: RolloutInput, revision: LiveRevision) -> bool:
    tasks = {task.name: inp.has_served(revision.name, task.name) for task in revision.record.tasks}
    rejected = inp.status.rejected
    return any(tasks.values()) and all(done or rejection(rejected, revision.name, name) for name, done in tasks.items())


def rejection(rejected: Iterable[RejectedRevision], revision: str, task: str = "") -> RejectedRevision | None:
    """Why a revision is not tried again, as a whole or for a task."""
    return next((item for item in rejected if item.revision == revision and item.task in ("", task)), None)


def exclusion(
    inp: RolloutInput, rejected: Iterable[RejectedRevision], revision: str, task: str, *, rollback: bool
) -> RejectedRevision | None:
    """Why a task does not take part in a rollout. Where a person goes back to what has served, that the revision was
    rejected as a whole since is about the tasks that it has not served."""
    if not rollback or not inp.has_served(revision, task):
        return rejection(rejected, revision, task)
    return next((item for item in rejected if (item.revision, item.task) == (revision, task)), None)


def reject(rejected: tuple[RejectedRevision, ...], *new: RejectedRevision) -> tuple[RejectedRevision, ...]:
    """With the new entries at the end; of too many the oldest are forgotten."""
    keys = {(item.revision, item.task) for item in new}
    kept = [item for item in rejected if (item.revision, item.task) not in keys]
    return (*kept, *new)[-MOST_REJECTED:]


def same_contract(inp: RolloutInput, home: Backend, task: RevisionTask) -> bool:
    """Whether callers of the backend's revision can be answered by the other revision's task without a change."""
    owner = inp.revision(home.revision)
    old = owner.task(task.name) if owner is not None else inp.routed.get(task.name)
    return old is not None and (old.type, old.fields, old.labels) == (task.type, task.fields, task.labels)


def has_traffic(inp: RolloutInput, revision: str, task: str) -> bool:
    """Whether the revision has a part of the task's traffic."""
    entry = inp.routed.get(task)
    return entry is not None and any(item.revision == revision and item.weight for item in entry.backends)


def approval_id(revision: Revision, serving: Serving) -> str:
    """12 hexadecimal digits over what is approved: the revision, how it is rolled out, and what it was tested on."""
    approved = {
        "revision": revision.revision,
        "trained": revision.trained,
        "image": revision.image,
        "rollout": serving.rollout.to_json(),
        "testData": revision.test_data,
    }
    return hashlib.sha256(json.dumps(approved, sort_keys=True).encode()).hexdigest()[:12]
