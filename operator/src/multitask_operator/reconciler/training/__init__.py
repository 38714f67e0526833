"""Training: from a model's state to the Jobs, deletions and status that it needs next. Pure."""

from multitask_operator.reconciler.training.decision import reconcile

__all__ = ["reconcile"]
