"""Stage ``filter``: the groups, their high-resource tasks, sampling probabilities and step budgets."""

from __future__ import annotations

from multitask_api.stage_io.parameters import FilterParameters
from multitask_api.stage_io.results import FilterResult, GroupPlan, PrepareResult, TrainResult
from multitask_api.stages.digests import digest
from multitask_trainer.judging.filtering import Inputs, Saturation, plan_group
from multitask_trainer.stage import Outcome, Stage, run


def work(stage: Stage) -> Outcome:
    """Plan every group from the row counts and what the baselines found."""
    parameters = stage.parameters(FilterParameters)
    plans = []
    for group, tasks in parameters.groups.items():
        rows = {task: _train_rows(stage, task) for task in tasks}
        found = {task: _saturation(stage, task, parameters.declared_saturation_steps.get(task)) for task in tasks}
        saturation = {task: item for task, item in found.items() if item is not None}
        inputs = Inputs(group, rows, saturation, parameters.batch_rows)
        plans.append(plan_group(inputs, parameters.high_resource, parameters.mixture))
    return Outcome(FilterResult(groups=tuple(plans)), _outputs(plans))


def _train_rows(stage: Stage, task: str) -> int:
    return PrepareResult.model_validate(stage.manifest_of(f"prepare/{task}").result).rows.train


def _saturation(stage: Stage, task: str, declared: int | None) -> Saturation | None:
    """The mean over the task's baseline seeds; without a baseline the declared steps; without those nothing."""
    names = stage.inputs_of(f"baseline/{task}/")
    runs = [TrainResult.model_validate(stage.manifest_of(name).result) for name in names]
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
    raise SystemExit(run(work))
