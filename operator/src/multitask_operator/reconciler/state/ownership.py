"""Which of the objects with a model's labels are its children. Pure.

A Job or ConfigMap that nobody owns, or that a former model of the name owned, is left by a restored backup, by
``kubectl delete --cascade=orphan``, or by the garbage collector, which will come to it. Half used it would vanish in
the middle of a run, or stay after the model. So it is replaced: its results are in storage, and its checkpoints too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from multitask_api.types import JsonObject
from multitask_operator.reconciler.state.accessors import controller, controller_uid, is_being_deleted
from multitask_operator.reconciler.state.cluster_state import ClusterState


def owned(cluster: ClusterState) -> ClusterState:
    """``cluster`` with the Jobs, ConfigMaps and Services that the model owns, and Jobs that are being deleted: no other
    one of their name can be created."""
    jobs = tuple(job for job in cluster.jobs if _is_owned(job, cluster) or is_being_deleted(job))
    configmaps, services = (
        tuple(item for item in items if _is_owned(item, cluster)) for items in (cluster.configmaps, cluster.services)
    )
    return replace(cluster, jobs=jobs, configmaps=configmaps, services=services)


def orphans(cluster: ClusterState) -> Iterator[JsonObject]:
    """What has the model's labels and no owner, or a former model of the name as its owner."""
    for item in (*cluster.jobs, *cluster.configmaps, *cluster.services):
        owner = controller(item)
        is_former = owner is not None and (owner["kind"], owner["name"]) == ("MultiTaskModel", cluster.name)
        if not _is_owned(item, cluster) and (owner is None or is_former):
            yield item


def _is_owned(item: JsonObject, cluster: ClusterState) -> bool:
    return bool(controller_uid(item) == cluster.model["metadata"]["uid"])
