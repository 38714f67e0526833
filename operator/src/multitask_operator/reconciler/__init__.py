"""Decides about one model in a cluster, and touches nothing: ``reconcile(cluster, settings, now)``.

`state` is what a decision is made on; `training` and `deletion` are reconcilers; `actions` is what they decide.
"""

from multitask_operator.reconciler.actions import Result
from multitask_operator.reconciler.lifecycle import reconcile

__all__ = ["Result", "reconcile"]
