"""Room for a third revision: at most two have servers at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from multitask_api.bundle import BASELINE
from multitask_operator.formatting import listed
from multitask_operator.rollout.candidate import same_contract
from multitask_operator.rollout.inputs import RolloutInput


class Room(NamedTuple):
    """Whether another revision may start."""

    main: str = ""
    """The revision that serves most tasks; empty: none serves any."""
    moved: Mapping[str, str] = {}
    """Task → the revision that takes it over at once, so that a third one is free."""
    message: str = ""
    """What is in the way; empty: nothing."""


def room_for(inp: RolloutInput, candidate: str, *, forced: bool) -> Room:
    """What has to happen before ``candidate`` starts beside the revisions that serve now.

    A task that was excluded from the latest rollout is still on an older revision. It goes to its single-task model in
    the newer bundle, which is at the bar by definition. Where the newer bundle answers it with the mixture that it was
    excluded from, or by another contract, a person has to decide: ``forced``.
    """
    served = Counter(
        max(entry.backends, key=lambda backend: backend.weight).revision
        for entry in inp.routed.values()
        if any(backend.revision != candidate and backend.weight for backend in entry.backends)
    )
    order = {item.name: index for index, item in enumerate(inp.revisions)}
    main = max(served, key=lambda name: (served[name], order.get(name, -1)), default="")
    if main == candidate:
        main = max((name for name in served if name != candidate), key=lambda name: served[name], default="")
    older = {
        name: entry.backends[0]
        for name, entry in inp.routed.items()
        if not {backend.revision for backend in entry.backends} & {main, candidate}
    }
    moved: dict[str, str] = {}
    stuck: list[str] = []
    target = inp.revision(main)
    for name, backend in older.items():
        task = target.task(name) if target is not None else None
        fits = task is not None and (forced or (same_contract(inp, backend, task) and task.served_by == BASELINE))
        if fits and target is not None and target.ready:
            moved[name] = main
        else:
            stuck.append(name)
    if stuck:
        owners = listed(sorted({older[name].revision for name in stuck}))
        message = (
            f"revision {candidate} has to wait: {listed(stuck)} would need revision {owners} beside it and {main}, and"
            f" {main} was rejected for it; next: mtm rollout retry {main}, or mtm rollout promote to move it there"
        )
        return Room(main, {}, message)
    if moved:
        return Room(main, moved, f"{listed(sorted(moved))} moves to its single-task model in revision {main}")
    servers = [item.name for item in inp.revisions if item.has_pods and item.name not in (main, candidate)]
    if servers and inp.table_revisions - {candidate}:
        return Room(main, {}, f"revision {candidate} starts when the servers of {listed(servers)} are gone")
    return Room(main)
