"""Stage ``check``: whether a task is better off without the tasks of its group that oppose it by their gradients.

Two short runs from the base model: all tasks of the group, and the same without those. In both the tasks that are left
get the same number of rows, and the learning rate decays at the end. The task's validation rows are scored after each;
the report shows both. One run each: the spread between seeds is not known.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence

from multitask_api.stage_io.affinity import CheckResult
from multitask_api.stage_io.parameters import CheckParameters, TrainParameters
from multitask_api.stage_io.results import TaskPoint
from multitask_api.stages.digests import digest
from multitask_trainer.runtime.context import StageContext, StageOutcome
from multitask_trainer.runtime.runner import main
from multitask_trainer.training.run import train


def work(stage: StageContext) -> StageOutcome:
    """Train twice; no weights are kept."""
    parameters = stage.parameters(CheckParameters)
    result = CheckResult(
        task=parameters.task,
        without=parameters.without,
        together=_point(stage, parameters, "together", ()),
        apart=_point(stage, parameters, "apart", parameters.without),
        rows=round(
            parameters.max_steps * parameters.optimisation.batch_rows * parameters.probabilities[parameters.task]
        ),
    )
    return StageOutcome(result, {"result": digest(result.to_json())})


def run_parameters(parameters: CheckParameters, without: Sequence[str]) -> TrainParameters:
    """One of the two runs. Pure."""
    names = [task.name for task in parameters.tasks if task.name not in without]
    shares = {task: share for task, share in parameters.probabilities.items() if task not in without}
    total = sum(shares.values())
    steps = max(1, round(parameters.max_steps * total))
    optimisation = parameters.optimisation.model_copy(
        update={
            # Nothing ends it early, and a short run has a short warm-up.
            "min_steps": steps,
            "eval_every": steps,
            "warmup_steps": min(parameters.optimisation.warmup_steps, steps // 5),
        }
    )
    return TrainParameters(
        kind="high-resource",
        tasks=tuple(task for task in parameters.tasks if task.name in names),
        probabilities={task: share / total for task, share in shares.items()},
        max_steps=steps,
        optimisation=optimisation,
        tuning=parameters.tuning.for_group(names),
        chat_template=parameters.chat_template,
    )


def _point(stage: StageContext, parameters: CheckParameters, name: str, without: Sequence[str]) -> TaskPoint:
    """The task at the end of one run, which has a work folder and checkpoints of its own."""
    run = stage.part(name)
    result = train(run, run_parameters(parameters, without))
    shutil.rmtree(run.artifact_folder, ignore_errors=True)
    return result.curve[-1].tasks[parameters.task]


if __name__ == "__main__":
    raise SystemExit(main(work))
