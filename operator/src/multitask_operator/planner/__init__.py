"""Plans, and touches nothing: ``plan(model, planner_input, now)`` is what an executor acts on."""

from multitask_operator.planner.costs import Capacity, cost
from multitask_operator.planner.plan import FreeCapacity, is_final, plan, plan_graph
from multitask_operator.planner.results import export_of, training_result_of, verdicts_of
from multitask_operator.planner.state import Failed, Plan, PlannerInput, Running, StartStage, StopStage
from multitask_operator.planner.used_results import UsedResults

__all__ = [
    "Capacity",
    "Failed",
    "FreeCapacity",
    "Plan",
    "PlannerInput",
    "Running",
    "StartStage",
    "StopStage",
    "UsedResults",
    "cost",
    "export_of",
    "is_final",
    "plan",
    "plan_graph",
    "training_result_of",
    "verdicts_of",
]
