"""Decides about one model in a cluster, and touches nothing: ``reconcile(cluster, settings, now)``.

`state` is what a decision is made on, `actions` is what it may do. `training` and `deletion` are reconcilers;
`lifecycle` chooses between them, and combines the contributions of those that work side by side.
"""

from multitask_operator.reconciler.actions import Result
from multitask_operator.reconciler.lifecycle import reconcile, reconcile_spec

__all__ = ["Result", "reconcile", "reconcile_spec"]
