"""The decision: where the rollout stands, and what it does next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from multitask_api.routes import RolloutState, TaskRouteSpec
from multitask_api.serving_io.names import ROLLOUT_ANNOTATION
from multitask_operator.formatting import listed
from multitask_operator.rollout.candidate import Candidate, choose, exclusion, rejection
from multitask_operator.rollout.decision import RolloutDecision
from multitask_operator.rollout.draft import OPEN, Draft, changed, finish, reject_revision
from multitask_operator.rollout.inputs import LiveRevision, RolloutInput
from multitask_operator.rollout.orders import ABORT, PAUSE, PROMOTE, RESUME, Order, parse_order, retry_of, rollout_order
from multitask_operator.rollout.progress import progress
from multitask_operator.rollout.room.exchange import is_halfway, make_room, servers_in_exchange
from multitask_operator.rollout.room.rehoming import room_for
from multitask_operator.rollout.share import DOWNTIME
from multitask_operator.rollout.table import OVER, table
from multitask_operator.rollout.verification import RECHECK_SECONDS, missing_approval, verify


def advance(inp: RolloutInput) -> RolloutDecision:
    """What the TaskRoute has to be now, and what else is to be done.

    One step at a time: what it decides is written, seen by the gateways, and only then built upon. Deciding again on
    the same observation gives the same.
    """
    draft = _retried(inp, Draft(inp.status.rollout, inp.status.rejected))
    candidate = choose(inp)
    state = draft.state
    if state is not None and state.phase not in OVER:
        if _is_held(inp, state):
            draft = _held(draft, inp, state, candidate)
        else:
            draft = _continued(draft, inp, state, candidate)
    elif inp.route is not None and table(inp, state, None, {}) != inp.route.spec:
        # State and table are two writes: the operator may have been stopped between them.
        draft = draft.waiting("WritingTable", "the table of the latest rollout is written", 0.0)
    else:
        draft = _begun(draft, inp, candidate)
    spec = table(inp, draft.state, draft.step, draft.moved)
    return _decision(inp, draft, spec)


def _decision(inp: RolloutInput, draft: Draft, spec: TaskRouteSpec | None) -> RolloutDecision:
    needed = inp.table_revisions | (spec.revisions if spec is not None else frozenset())
    state = draft.state
    if state is not None and state.phase not in OVER:
        needed = needed | {state.revision}
    leaving = {item.name for item in inp.revisions if item.has_pods} - needed
    if state is not None and _failed_unused(state):  # the old servers need its room to answer again
        leaving -= {state.revision}
    drained = inp.drained_after()
    if leaving and drained != 0.0:
        needed = needed | leaving
        draft = replace(draft, requeue_after=_earliest(draft.requeue_after, drained or RECHECK_SECONDS))
    return RolloutDecision(
        spec=spec,
        rollout=state,
        rejected=draft.rejected,
        served=inp.served,
        live=frozenset(needed),
        reason=draft.reason,
        message=draft.message,
        is_progressing=draft.is_progressing,
        golden=draft.golden,
        events=draft.events,
        requeue_after=draft.requeue_after,
        approval=draft.approval,
        servers=_servers(inp, draft, spec),
    )


def _has_left(inp: RolloutInput, revision: str) -> bool:
    """Whether no gateway sends requests to the revision any more."""
    return revision not in inp.table_revisions and inp.silent_gateways() == []


def _failed_unused(state: RolloutState) -> bool:
    """Whether it is over before the revision had traffic, while nobody else answered."""
    return state.gives_way == DOWNTIME and state.phase in ("Failed", "Aborted") and state.step_started is None


def _servers(inp: RolloutInput, draft: Draft, spec: TaskRouteSpec | None) -> Mapping[str, int]:
    """See `RolloutDecision.servers`. What the next table does not name, and is not about to, gets no further server."""
    state = draft.state
    named = spec.revisions if spec is not None else frozenset()
    coming = {state.revision} if state is not None and state.phase not in OVER else set()
    leaving = {each.name: each.replicas for each in inp.revisions if each.name not in named | coming}
    if state is not None and state.gives_way is not None and _has_left(inp, state.revision):
        # The old servers need its room. One stays for requests under way; the others drain before they end.
        leaving = {name: min(servers, 1) for name, servers in leaving.items()}
    return leaving | dict(servers_in_exchange(inp, draft))


def _earliest(*waits: float | None) -> float | None:
    return min((wait for wait in waits if wait is not None), default=None)


def _retried(inp: RolloutInput, draft: Draft) -> Draft:
    """A retry is carried out once: the revision is no longer rejected, for no task."""
    retry, state = retry_of(inp.annotations), draft.state
    if retry is None or state is None or retry[1] == state.retry:
        return draft
    kept = tuple(item for item in draft.rejected if item.revision != retry[0])
    return replace(draft, state=changed(state, retry=retry[1]), rejected=kept)


def _continued(draft: Draft, inp: RolloutInput, state: RolloutState, candidate: Candidate) -> Draft:
    """A rollout that is under way."""
    revision = inp.revision(state.revision)
    if revision is None:
        return finish(draft, inp, state, "Aborted", f"the record of revision {state.revision} is gone")
    wanted = candidate.revision
    is_replaced = wanted is not None and wanted.name != state.revision
    if is_replaced and not candidate.is_pinned and is_halfway(inp, state):
        is_replaced = False  # too few servers of the old revision are left to take all traffic back
    if is_replaced and wanted is not None:
        why = "it is newer"
        if candidate.is_pinned:
            why = "somebody rolls back to it" if candidate.is_rollback else "it is pinned"
        message = f"revision {wanted.name} replaces {state.revision} before it has all traffic: {why}"
        return finish(draft, inp, _unless_alone(inp, state), "Aborted", message)
    order = _new_order(inp, state)
    resume = order.text if order is not None and order.action == RESUME else ""
    last = order or parse_order(state.order)
    if order is not None and (not resume or state.step_started is None):
        state = changed(state, order=order.text)
    action = last.action if last is not None and last.revision == state.revision else ""
    if order is not None and action == ABORT:
        message = f"a person aborted the rollout of revision {state.revision}"
        draft = reject_revision(draft, inp, state.revision, "Aborted", message)
        return finish(draft, inp, state, "Aborted", message)
    draft = replace(draft, state=state)
    rollback, is_paused = candidate.is_rollback, action == PAUSE
    if state.step_started is None:
        draft = verify(draft, inp, state, revision, rollback=rollback, is_paused=is_paused)
        state = draft.state or state
    if state.phase not in OVER and state.step_started is not None:
        draft = progress(draft, inp, state, revision, action=action, resume=resume, rollback=rollback)
    approval = missing_approval(inp, revision, rollback=rollback) if state.step_started is None else None
    return make_room(draft, inp, revision, is_paused=is_paused, rollback=rollback, approval=approval)


def _unless_alone(inp: RolloutInput, state: RolloutState) -> RolloutState:
    """What the revision alone answers, such as the first one of a model, it goes on answering."""
    rows = [
        changed(row, phase="Successful") if row.phase in OPEN and inp.is_settled(state.revision, row.name) else row
        for row in state.tasks
    ]
    return changed(state, tasks=rows)


def _is_held(inp: RolloutInput, state: RolloutState) -> bool:
    """Whether somebody resumes a rollout that had left its place to others, and there is none for it now."""
    order = _new_order(inp, state)
    return order is not None and order.action == RESUME and state.phase == "Paused" and inp.has_to_queue


def _new_order(inp: RolloutInput, state: RolloutState) -> Order | None:
    """The order for this rollout that has not been carried out; None: there is none."""
    order = rollout_order(inp.annotations)
    is_new = order is not None and order.revision == state.revision and order.text != state.order
    return order if is_new else None


def _held(draft: Draft, inp: RolloutInput, state: RolloutState, candidate: Candidate) -> Draft:
    """It stays stopped; the order is carried out once there is a place."""
    others = {name: text for name, text in inp.annotations.items() if name != ROLLOUT_ANNOTATION}
    draft = _continued(draft, replace(inp, annotations=others), state, candidate)
    if draft.state is None or draft.state.phase != "Paused":
        return draft
    return draft.waiting_for_others(f"revision {state.revision} is resumed as soon as it may: {inp.queued}")


def _begun(draft: Draft, inp: RolloutInput, candidate: Candidate) -> Draft:
    """No rollout is under way: the next one, if there is something to roll out."""
    revision = candidate.revision
    if revision is None:
        return replace(draft, reason="NoRevision", message=candidate.problem)
    missing = [task.name for task in revision.record.tasks if not inp.is_settled(revision.name, task.name)]
    out = [exclusion(inp, draft.rejected, revision.name, name, rollback=candidate.is_rollback) for name in missing]
    if None not in out:
        return _settled(draft, inp, candidate, revision, missing)
    if inp.has_to_queue and not candidate.is_rollback:
        return draft.waiting_for_others(f"revision {revision.name} waits: {inp.queued}")
    order = rollout_order(inp.annotations)
    forced = candidate.is_rollback or (
        order is not None and order.action == PROMOTE and order.revision == revision.name
    )
    room = room_for(inp, revision.name, forced=forced)
    if room.moved:
        draft = draft.event("TasksRehomed", room.message)
        return replace(draft, moved=room.moved).waiting("Rehoming", room.message, 0.0)
    if room.message:
        return draft.waiting("NoRoomForRevision", room.message, RECHECK_SECONDS)
    message = f"revision {revision.name} starts" + (f"; {room.main} serves until then" if room.main else "")
    before = draft.state
    state = RolloutState(
        revision=revision.name,
        stable=room.main,
        phase="Verifying",
        message=message,
        order=before.order if before is not None else "",
        retry=before.retry if before is not None else (retry_of(inp.annotations) or ("", ""))[1],
    )
    draft = draft.event("RolloutStarted", message)
    return replace(draft, state=state).waiting("RolloutStarted", message, 0.0)


def _settled(
    draft: Draft, inp: RolloutInput, candidate: Candidate, revision: LiveRevision, out: Sequence[str]
) -> Draft:
    """Every task has the revision, except those that are ``out``: it was rejected for them."""
    whole = rejection(draft.rejected, revision.name)
    if whole is not None and out:
        message = f"revision {revision.name} was rejected: {whole.message}; next: mtm rollout retry"
        return replace(draft, reason="RevisionRejected", message=message)
    message = f"revision {revision.name} has the traffic"
    if out:
        why = {item.task: item.message for item in draft.rejected if item.revision == revision.name}
        message += f", except that of {listed(out)}: {why.get(out[0], 'it was rejected')}"
    if candidate.is_pinned:
        message += f"; {inp.newest} is not rolled out while {revision.name} is pinned"
    return replace(draft, reason="TasksExcluded" if out else "RolledOut", message=message)
