"""How much of the traffic the servers of a revision may get, when there is room for two revisions and when not."""

from __future__ import annotations

from collections.abc import Sequence

from multitask_api.routes import RolloutState
from multitask_operator.rollout.inputs import LiveRevision, RolloutInput

POD_BY_POD, DOWNTIME = "PodByPod", "Downtime"
"""Values of `RolloutState.gives_way`."""


def share_of(inp: RolloutInput, revision: LiveRevision, state: RolloutState) -> int:
    """The most percent of the traffic that the revision's ready servers can take in the rollout.

    While servers are exchanged one by one it is their part of all that are ready, so that each has the same load. With
    one server missing it is everything: that one starts when the last server of the old revision has ended, and it ends
    without traffic.
    """
    if state.revision != revision.name or state.gives_way is None or not revision.replicas:
        return revision.share
    least = wanted_servers(inp, revision, state) - 1 if state.gives_way == POD_BY_POD else 1
    if revision.ready >= max(1, least):
        return 100
    all_ready = revision.ready + ready_servers(others_than(inp, revision.name))
    return max(revision.share, 100 * revision.ready // max(1, all_ready))


def wanted_servers(inp: RolloutInput, revision: LiveRevision, state: RolloutState) -> int:
    """The servers of which one may be missing. An autoscaler asks for more while one is missing, and gets none."""
    replicas = max(revision.replicas, inp.serving.replicas)
    return min(replicas, state.gives_way_servers or replicas)


def others_than(inp: RolloutInput, revision: str) -> list[LiveRevision]:
    """The revisions that answer beside it."""
    return [each for each in inp.revisions if each.name != revision and each.name in inp.table_revisions]


def ready_servers(revisions: Sequence[LiveRevision]) -> int:
    """Their number. One that its Deployment has just given up may still look ready."""
    return sum(min(each.ready, each.replicas) for each in revisions)
