"""How many models of an installation roll out at the same time. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from multitask_operator.formatting import counted, listed
from multitask_operator.reconciler.actions import Action, PatchRoute
from multitask_operator.reconciler.state.cluster_state import ClusterState
from multitask_operator.rollout import ROLLING
from multitask_operator.settings import Settings


def queued(cluster: ClusterState, settings: Settings) -> str:
    """Why no further rollout may begin; empty: one may."""
    others, most = cluster.rolling_models, settings.max_concurrent_rollouts
    if len(others) < most:
        return ""
    return f"the installation lets {counted(most, 'model')} roll out at a time, now {listed(sorted(others))}"


def takes_a_place(actions: Iterable[Action]) -> bool:
    """Whether a decision writes that the model rolls out, which the others must know before a watch shows it."""
    statuses = (action.status for action in actions if isinstance(action, PatchRoute) and action.status is not None)
    rollouts = (status.get("rollout") or {} for status in statuses)
    return any(rollout.get("phase") in ROLLING for rollout in rollouts)
