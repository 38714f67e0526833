"""Which of the objects with a model's labels are its children. Pure.

A Job or ConfigMap that nobody owns, or that a former model of the name owned, is left by a restored backup, by
``kubectl delete --cascade=orphan``, or by the garbage collector, which will come to it. Half used it would vanish in
the middle of a run, or stay after the model. So it is replaced: its results are in storage, and its checkpoints too.

What serves is not replaced while it answers: an object of a revision that nobody owns gets its owner again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from multitask_api.serving_io.names import SERVING
from multitask_api.types import JsonObject
from multitask_operator.reconciler.state.accessors import controller, controller_uid, is_being_deleted, kind_label
from multitask_operator.reconciler.state.cluster_state import ClusterState

_SERVING = ("deployments", "network_policies", "disruption_budgets", "task_routes")


def owned(cluster: ClusterState) -> ClusterState:
    """``cluster`` with the children that the model owns, Jobs that are being deleted (no other one of their name can be
    created), and objects of revisions without an owner."""
    lists: dict[str, Any] = {
        name: tuple(item for item in getattr(cluster, name) if _is_child(item, cluster))
        for name in ("jobs", "configmaps", "services", *_SERVING)
    }
    return replace(cluster, **lists)


def orphans(cluster: ClusterState) -> Iterator[JsonObject]:
    """What has the model's labels and no owner, or a former model of the name as its owner."""
    serving = (item for name in _SERVING for item in getattr(cluster, name))
    for item in (*cluster.jobs, *cluster.configmaps, *cluster.services, *serving):
        owner = controller(item)
        is_former = owner is not None and (owner["kind"], owner["name"]) == ("MultiTaskModel", cluster.name)
        if not _is_owned(item, cluster) and (is_former or (owner is None and not _is_adopted(item))):
            yield item


def _is_child(item: JsonObject, cluster: ClusterState) -> bool:
    is_ending_job = item["kind"] == "Job" and is_being_deleted(item)
    return _is_owned(item, cluster) or is_ending_job or (controller(item) is None and _is_adopted(item))


def _is_adopted(item: JsonObject) -> bool:
    """An object of a revision, or the table."""
    return kind_label(item) == SERVING


def _is_owned(item: JsonObject, cluster: ClusterState) -> bool:
    return bool(controller_uid(item) == cluster.model["metadata"]["uid"])
