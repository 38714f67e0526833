"""What serving needs next: revisions with their servers, and the table that the gateways follow. Pure."""

from multitask_operator.reconciler.serving.decision import reconcile
from multitask_operator.reconciler.serving.status import answers

__all__ = ["answers", "reconcile"]
