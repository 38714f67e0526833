"""``mtm gc`` in a cluster: one Job removes from a model's storage what nothing uses any more. Pure."""

from multitask_operator.reconciler.gc.decision import reconcile
from multitask_operator.reconciler.gc.order import answer_of, result_of

__all__ = ["answer_of", "reconcile", "result_of"]
