"""Stage ``mixture``: stage 3 of arXiv 2411.03644, all tasks of a group at the rates the filter fixed."""

from __future__ import annotations

import sys

from multitask_api.stage_io.manifest import Manifest
from multitask_api.stage_io.mixture_start import MixtureStart
from multitask_api.stage_io.parameters import TrainParameters
from multitask_api.stage_io.results import TrainResult
from multitask_api.stages.warm_start import FORM, tasks_of, weights_form
from multitask_trainer.runtime.context import StageContext, StageOutcome
from multitask_trainer.runtime.runner import main
from multitask_trainer.storage.files import content_digest
from multitask_trainer.training.run import sampling_table, train


def work(stage: StageContext) -> StageOutcome:
    """Train from the weights of an earlier mixture or of stage 2 if there are some, else from the base.

    ONE checkpoint is kept for all tasks: that with the highest mean over tasks of validation score / the baseline's
    validation score.
    """
    parameters = stage.parameters(TrainParameters)
    earlier = stage.input_names(stage.order.stage)
    before = earlier or stage.input_names("high-resource/")
    result = train(stage, parameters, start=stage.input(before[0]) / "weights" if before else None)
    stage.distributed.exit_workers()
    if earlier:
        result = result.model_copy(update={"start": _started_from(stage.input_manifest(earlier[0]))})
    sys.stdout.write(f"{sampling_table(result, parameters)}\n")
    outputs = {"model": content_digest(stage.artifact_folder, ["weights"]), FORM: weights_form(parameters.tuning)}
    return StageOutcome(result, outputs)


def _started_from(earlier: Manifest) -> MixtureStart:
    """The record of a start, with what the earlier mixture had begun with itself."""
    result = TrainResult.model_validate(earlier.result)
    rows = result.start.rows_given if result.start else {}
    return MixtureStart(
        digest=earlier.digest,
        tasks=tasks_of(earlier),
        rows_given={task: result.rows_given.get(task, 0) + rows.get(task, 0) for task in (result.rows_given | rows)},
    )


if __name__ == "__main__":
    raise SystemExit(main(work))
