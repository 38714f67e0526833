"""Where a reconcile begins: which reconciler a model needs now. Pure.

Nothing is remembered from one call to the next: what was done is what the cluster shows. So a restart, a second
operator or a stale read can at most decide the same thing again, and names that follow from content make that harmless.
"""

from __future__ import annotations

from multitask_api.errors import UserError
from multitask_operator.reconciler import deletion, training
from multitask_operator.reconciler.actions import Result
from multitask_operator.reconciler.conditions import invalid_spec
from multitask_operator.reconciler.finalizers import finalizer_patch, has_finalizer
from multitask_operator.reconciler.state.accessors import is_being_deleted
from multitask_operator.reconciler.state.cluster_state import ClusterState
from multitask_operator.reconciler.state.model_state import ModelState
from multitask_operator.settings import Settings


def reconcile(cluster: ClusterState, settings: Settings, now: float) -> Result:
    """What to do about the model, ``now`` in Unix seconds."""
    if is_being_deleted(cluster.model):
        return deletion.reconcile(cluster, settings, now) if has_finalizer(cluster.model) else Result()
    if is_being_deleted(cluster.namespace_object):
        return Result()
    patch = finalizer_patch(cluster.model)
    if patch is not None and not cluster.rejected_writes:
        return Result((patch,), requeue_after=0.0)  # before anything is created that would have to be removed
    try:
        state = ModelState.of(cluster, now)
    except UserError as error:
        return invalid_spec(cluster, error, now)
    return training.reconcile(state, settings)
