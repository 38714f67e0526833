"""Training: from a model's state to the Jobs, the deletions and the part of the status that it contributes. Pure."""

from multitask_operator.reconciler.training.decision import reconcile

__all__ = ["reconcile"]
