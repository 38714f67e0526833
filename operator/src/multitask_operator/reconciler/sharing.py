"""Whether a model's storage is its own: what nobody else uses can be removed. Pure."""

from __future__ import annotations

from multitask_api.uris import overlap
from multitask_operator.reconciler.finalizers import has_finalizer, retains_artifacts
from multitask_operator.reconciler.state.accessors import is_being_deleted
from multitask_operator.reconciler.state.cluster_state import ClusterState, storage_and_data_uris


def storage_shared(cluster: ClusterState) -> str | None:
    """Which other model may use what is stored there; not one that is itself being deleted with its artifacts."""
    for other in cluster.sibling_models:
        if is_being_deleted(other) and has_finalizer(other) and not retains_artifacts(other):
            continue
        for uri in storage_and_data_uris(other):
            if overlap(uri, cluster.storage_uri):
                return f"MultiTaskModel {other['metadata']['name']!r} uses {uri}."
    return None
