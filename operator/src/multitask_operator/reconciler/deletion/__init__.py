"""Deletion of a model that does not retain its artifacts: what is left to do before its finalizer is removed. Pure."""

from multitask_operator.reconciler.deletion.decision import CLEANING_UP, reconcile

__all__ = ["CLEANING_UP", "reconcile"]
