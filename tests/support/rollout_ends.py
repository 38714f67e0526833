"""Where a simulated rollout begins, and how it has ended: to compare one that was interrupted with one that was not."""

from __future__ import annotations

import copy
from collections import Counter

from support.busy_cluster import BusyCluster

#: Fields that follow from the time, from how often somebody looked, and from how much traffic there was until then.
FLEETING = {
    *("lastTransitionTime", "time", "finished", "stepStarted", "measured", "message", "measurements", "previous"),
    *("gateways", "resourceVersion", "passedOn", "progressTime", "givesWaySince"),
}


def before_the_next_revision(cluster: BusyCluster) -> BusyCluster:
    known = cluster.recorded
    while True:
        before = copy.deepcopy(cluster)
        cluster.reconcile()
        if cluster.recorded != known:
            return before
        if cluster.written == before.written:
            cluster.finish(cluster.jobs()[0])


def serve_beside_a_late_operator(cluster: BusyCluster, looks: int):
    """To the end of the rollout, with a second operator that is ``looks`` states of the cluster behind."""
    seen = [cluster.observe() for _ in range(looks)]

    def look():
        seen.append(cluster.observe())
        cluster.reconcile()
        cluster.reconcile(stale=seen.pop(0))

    cluster.serve(look=look)


def end_state(cluster: BusyCluster):
    """What must be the same whatever happened in between."""
    settings = {key: item.get("spec") for key, item in cluster.objects.items() if key[0] not in ("Pod", "Job")}
    return {
        "objects": settings,
        "rollout": steady(cluster.route["status"]),
        "status": steady(cluster.model["status"]),
        "created": Counter(cluster.created),
    }


def steady(value):
    """Without what is fleeting."""
    if isinstance(value, dict):
        return {key: steady(item) for key, item in value.items() if key not in FLEETING}
    return [steady(item) for item in value] if isinstance(value, list) else value
