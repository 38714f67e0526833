"""Decides about one model in a cluster, and touches nothing: ``reconcile(raw, settings, now)``."""

from multitask_operator.reconciler.decide import reconcile
from multitask_operator.reconciler.outcome import Outcome

__all__ = ["Outcome", "reconcile"]
