"""Plans, and touches nothing: ``plan(model, planner_input, now)`` is what an executor acts on."""

from multitask_operator.planner.costs import Capacity
from multitask_operator.planner.plan import is_final, plan
from multitask_operator.planner.results import export_of, training_result_of, verdicts_of
from multitask_operator.planner.state import Failed, Plan, PlannerInput, Running, StartStage, StopStage
from multitask_operator.planner.used_results import UsedResults

__all__ = [
    "Capacity",
    "Failed",
    "Plan",
    "PlannerInput",
    "Running",
    "StartStage",
    "StopStage",
    "UsedResults",
    "export_of",
    "is_final",
    "plan",
    "training_result_of",
    "verdicts_of",
]
