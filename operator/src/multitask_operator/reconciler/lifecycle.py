"""Where a reconcile begins: deletion, or what the reconcilers of a living model contribute together. Pure.

Nothing is remembered from one call to the next: what was done is what the cluster shows. So a restart, a second
operator or a stale read can at most decide the same thing again, and names that follow from content make that harmless.
"""

from __future__ import annotations

from multitask_api.errors import UserError
from multitask_operator.reconciler import deletion, gc, serving, training
from multitask_operator.reconciler.actions import Result, delete_all
from multitask_operator.reconciler.conditions import invalid_spec
from multitask_operator.reconciler.contribution import combine
from multitask_operator.reconciler.finalizers import finalizer_patch, has_finalizer
from multitask_operator.reconciler.state import ownership
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
    orphans = tuple(delete_all(*ownership.orphans(cluster)))
    if orphans and not cluster.rejected_writes:
        return Result(orphans, requeue_after=0.0)  # their names are needed
    try:
        state = ModelState.of(cluster, now)
    except UserError as error:
        return invalid_spec(cluster, error, now, serving.answers(cluster))
    return reconcile_spec(state, settings)


def reconcile_spec(state: ModelState, settings: Settings) -> Result:
    """What a model needs that is not being deleted; a spec that cannot be carried out gets a status only.

    Serving's part of the status comes after training's: it decides Ready as soon as there is a revision.
    """
    try:
        contributions = [each.reconcile(state, settings) for each in (training, gc, serving)]
    except UserError as error:
        return invalid_spec(state.cluster, error, state.now, serving.answers(state.cluster))
    return combine(state.cluster, contributions, state.now)
