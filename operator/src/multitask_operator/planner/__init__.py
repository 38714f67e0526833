"""Plans, and touches nothing: ``plan(model, observed, now)`` is what an executor acts on."""

from multitask_operator.planner.costs import Capacity
from multitask_operator.planner.plan import is_final, plan
from multitask_operator.planner.results import export_of, verdicts_of
from multitask_operator.planner.state import Failed, Observed, Plan, Running, StartStage, StopStage

__all__ = [
    "Capacity",
    "Failed",
    "Observed",
    "Plan",
    "Running",
    "StartStage",
    "StopStage",
    "export_of",
    "is_final",
    "plan",
    "verdicts_of",
]
