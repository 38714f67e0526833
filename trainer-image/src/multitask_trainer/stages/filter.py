"""Stage ``filter``: plans stages 2 and 3 of every group: high-resource tasks, sampling probabilities, step budgets.

It runs after the baselines, whose saturation it reads. The grouping itself (stage 1, task filtering) needs no results:
`multitask_api.stages.groups` does it, and the groups are among this stage's parameters.
"""

from __future__ import annotations

from multitask_api.stage_io.parameters import FilterParameters
from multitask_api.stage_io.results import FilterResult, GroupPlan, PrepareResult, TrainResult
from multitask_api.stages.digests import digest
from multitask_trainer.runtime.context import StageContext, StageOutcome
from multitask_trainer.runtime.runner import main
from multitask_trainer.training.group_plan import GroupInputs, Saturation, divide_steps, plan_group


def work(stage: StageContext) -> StageOutcome:
    """Plan every group from its tasks' row counts and the baselines' saturation; no model is trained here."""
    parameters = stage.parameters(FilterParameters)
    groups = [_inputs(stage, parameters, group) for group in parameters.groups]
    total = parameters.total_steps
    shares = {} if total is None else divide_steps(total, groups)
    plans = [
        plan_group(inputs, parameters.high_resource, parameters.mixture, share=shares.get(inputs.name))
        for inputs in groups
    ]
    return StageOutcome(FilterResult(groups=tuple(plans)), _outputs(plans))


def _inputs(stage: StageContext, parameters: FilterParameters, group: str) -> GroupInputs:
    tasks = parameters.groups[group]
    rows = {task: _train_rows(stage, task) for task in tasks}
    declared = parameters.declared_saturation_steps
    by_task = {task: _saturation(stage, task, declared.get(task)) for task in tasks}
    saturation = {task: item for task, item in by_task.items() if item is not None}
    is_trained = len(tasks) > 1 or not stage.input_names(f"baseline/{tasks[0]}/")
    return GroupInputs(group, rows, saturation, parameters.batch_rows, is_trained, parameters.weights or {})


def _train_rows(stage: StageContext, task: str) -> int:
    return PrepareResult.model_validate(stage.input_manifest(f"prepare/{task}").result).rows.train


def _saturation(stage: StageContext, task: str, declared: int | None) -> Saturation | None:
    """The mean over the task's baseline seeds; without a baseline the declared steps; without those nothing."""
    names = stage.input_names(f"baseline/{task}/")
    runs = [TrainResult.model_validate(stage.input_manifest(name).result) for name in names]
    if runs:
        return Saturation(
            saturation=sum(run.saturation_step for run in runs) / len(runs),
            chosen=sum(run.chosen_step for run in runs) / len(runs),
        )
    return Saturation(saturation=declared) if declared is not None else None


def _outputs(plans: list[GroupPlan]) -> dict[str, str]:
    """Stage 2 reads only its own tasks and rates: a new task that leaves them as they were does not run it again."""
    outputs = {}
    for plan in plans:
        outputs[f"high-resource/{plan.name}"] = digest(
            {"tasks": plan.high_resource, "probabilities": plan.high_resource_probabilities}
        )
        outputs[f"mixture/{plan.name}"] = digest({"probabilities": plan.probabilities, "steps": plan.mixture_steps})
    return outputs


if __name__ == "__main__":
    raise SystemExit(main(work))
