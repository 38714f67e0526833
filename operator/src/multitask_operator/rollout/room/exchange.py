"""Servers of the old revision that make room for those of the new one, where the cluster has none for both.

Servers are exchanged one by one while traffic moves, so that one is missing at most. A revision with one server ends
before the next one starts, if the resource allows that nobody answers meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from multitask_api.routes import RolloutState
from multitask_operator.formatting import counted, listed
from multitask_operator.rollout.candidate import exclusion
from multitask_operator.rollout.draft import Draft, finish, reject_revision
from multitask_operator.rollout.inputs import LiveRevision, RolloutInput, format_time, parse_time
from multitask_operator.rollout.share import DOWNTIME, POD_BY_POD, others_than, ready_servers, wanted_servers
from multitask_operator.rollout.verification import ask_approval, hold_back

MAKING_ROOM = "MakingRoom"
"""The reason of a rollout that waits for servers in whose place others end."""
NO_ROOM_SECONDS = 120.0
"""Seconds that servers have been without room before others give way: a cluster autoscaler may be adding a node."""


def make_room(
    draft: Draft, inp: RolloutInput, revision: LiveRevision, *, is_paused: bool, rollback: bool, approval: str | None
) -> Draft:
    """The draft of a rollout that is short of servers, with what others do about it.

    ``approval``: the id that a person has yet to approve; None: nothing is to be approved.
    """
    state, others = draft.state, others_than(inp, revision.name)
    if state is None or not draft.is_short or not others:
        return draft
    if state.gives_way is not None:
        return _waiting(draft, inp, state, revision, others)
    if revision.no_room_since is None or revision.starting or is_paused:
        return draft
    left = revision.no_room_since + NO_ROOM_SECONDS - inp.now
    if left > 0:
        return replace(draft, requeue_after=min(draft.requeue_after or left, left))
    servers = _exchangeable(inp, revision, others)
    if servers >= 2:
        message = f"revision {_names(others)} gives up one server at a time for {revision.name}: both have no room"
        return _begun(draft, inp, state, POD_BY_POD, servers, message)
    obstacle = _obstacle(draft, inp, revision, others, rollback=rollback)
    if obstacle:
        return replace(draft, message=f"{draft.message}; {obstacle}")
    message = (
        f"revision {revision.name} cannot be verified beside {_names(others)}, for want of room, and waits for"
        f" approval before the servers of {_names(others)} end: {ask_approval(approval)}"
    )
    held = hold_back(draft, inp, state, approval, message, rollback=rollback)
    if held is not None:
        return held
    message = f"the servers of revision {_names(others)} end, so that those of revision {revision.name} have room"
    return _begun(draft, inp, state, DOWNTIME, 1, message)


def servers_in_exchange(inp: RolloutInput, draft: Draft) -> Mapping[str, int]:
    """Revision → the servers that it is to have while it gives way.

    Decided on what is written: an operator that is killed in between finds the same.
    """
    state, written = draft.state, inp.status.rollout
    revision = inp.revision(state.revision) if state is not None else None
    if state is None or written is None or revision is None or state.finished is not None:
        return {}
    if written.revision != state.revision or written.gives_way is None or written.gives_way != state.gives_way:
        return {}
    others, replicas = others_than(inp, state.revision), wanted_servers(inp, revision, state)
    if state.gives_way == DOWNTIME:
        return {each.name: 0 for each in others}
    # A Deployment that somebody deleted is made again, with those that were not given up.
    least = max(1, replicas - max(1, revision.ready))
    servers = {each.name: min(each.replicas or least, replicas) for each in others}
    giver = max(others, key=lambda each: each.replicas, default=None)
    may_give = draft.is_short and not revision.starting and _are_ready(revision, others, replicas)
    if may_give and giver is not None and giver.replicas > 1:
        servers[giver.name] = min(servers[giver.name], giver.replicas - 1)
    return servers


def is_halfway(inp: RolloutInput, state: RolloutState) -> bool:
    """Whether the traffic moves, and the revision before has given up more than one server for it."""
    revision = inp.revision(state.revision)
    if revision is None or state.gives_way != POD_BY_POD or state.phase != "Progressing":
        return False
    left = sum(each.replicas for each in others_than(inp, state.revision))
    return left < wanted_servers(inp, revision, state) - 1


def _exchangeable(inp: RolloutInput, revision: LiveRevision, others: list[LiveRevision]) -> int:
    """The servers of which one may be missing for a moment; 0: one is missing already, and on its way."""
    replicas = revision.replicas
    if _are_ready(revision, others, replicas):
        return replicas
    # Those that an autoscaler asks for, and that have no room either, are not missed.
    return revision.ready + ready_servers(others) if _are_stuck(others, inp.now) else 0


def _begun(draft: Draft, inp: RolloutInput, state: RolloutState, how: str, servers: int, message: str) -> Draft:
    phase = "Verifying" if state.step_started is None else state.phase
    draft = draft.with_state(
        state,
        gives_way=how,
        gives_way_servers=servers,
        gives_way_since=format_time(inp.now),
        phase=phase,
        message=message,
    ).event(MAKING_ROOM, message, warning=how == DOWNTIME)
    return draft.waiting(MAKING_ROOM, message, draft.requeue_after)


def _waiting(
    draft: Draft, inp: RolloutInput, state: RolloutState, revision: LiveRevision, others: list[LiveRevision]
) -> Draft:
    """Others give way already."""
    names, seconds = _names(others), NO_ROOM_SECONDS + revision.start_seconds
    is_overdue = inp.now >= parse_time(state.gives_way_since or "") + seconds
    if is_overdue and not revision.ready and (state.gives_way == DOWNTIME or not state.tasks):
        message = (
            f"no server of revision {revision.name} was ready {counted(round(seconds), 'second')} after revision"
            f" {names} made room; its servers are started again"
        )
        draft = reject_revision(draft, inp, revision.name, "ServersNotReady", message)
        return finish(draft, inp, state, "Failed", message)
    text = "nobody answers meanwhile" if state.gives_way == DOWNTIME else "one server at a time makes room"
    message = f"{draft.message}; {text}, because there is no room beside revision {names}"
    return draft.waiting(MAKING_ROOM, message, draft.requeue_after)


def _are_ready(revision: LiveRevision, others: list[LiveRevision], replicas: int) -> bool:
    """Whether no server is missing."""
    return revision.ready + ready_servers(others) >= replicas


def _are_stuck(revisions: list[LiveRevision], now: float) -> bool:
    """Whether there is no room for all servers of the revisions that answer."""
    times = [each.no_room_since for each in revisions if each.no_room_since is not None]
    return bool(times) and now >= min(times) + NO_ROOM_SECONDS


def _obstacle(
    draft: Draft, inp: RolloutInput, revision: LiveRevision, others: list[LiveRevision], *, rollback: bool
) -> str:
    """Why the old revision does not end before the new one starts; empty: nothing is in the way of that."""
    replicas, names = revision.replicas, _names(others)
    if replicas >= 2 and not _are_stuck(others, inp.now):
        return f"when all servers of revision {names} are ready, one of them makes room"
    if revision.ready:
        return "there is no room for more; next: add room"
    beside = f"there is no room for them beside revision {names}"
    stays = [
        task.name
        for task in revision.record.tasks
        if exclusion(inp, draft.rejected, revision.name, task.name, rollback=rollback) is not None
        and inp.home(task.name, revision.name) is not None
    ]
    if stays:
        return f"{beside}, which keeps {listed(stays)}; next: add room"
    if inp.serving.allow_downtime:
        return ""
    more = "" if replicas >= 2 else "set spec.serving.replicas to 2 or more, so that they are exchanged one by one, or "
    return (
        f"{beside}; next: add room, or {more}set spec.serving.allowDowntime to true, so that the old servers end before"
        " the new ones start"
    )


def _names(revisions: list[LiveRevision]) -> str:
    return listed([each.name for each in revisions])
