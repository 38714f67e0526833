"""Stage ``mixture``: stage 3 of arXiv 2411.03644, all tasks of a group at the rates the filter fixed."""

from __future__ import annotations

import sys

from multitask_api.stage_io.parameters import TrainParameters
from multitask_trainer.runtime.context import StageContext, StageOutcome
from multitask_trainer.runtime.runner import main
from multitask_trainer.storage.files import content_digest
from multitask_trainer.training.run import sampling_table, train


def work(stage: StageContext) -> StageOutcome:
    """Train from stage 2's weights where there was a stage 2, else from the base; keep ONE checkpoint for all tasks.

    It is the one with the highest mean over tasks of validation score / the baseline's validation score.
    """
    parameters = stage.parameters(TrainParameters)
    before = stage.input_names("high-resource/")
    result = train(stage, parameters, start=stage.input(before[0]) / "weights" if before else None)
    sys.stdout.write(f"{sampling_table(result, parameters)}\n")
    return StageOutcome(result, {"model": content_digest(stage.artifact_folder, ["weights"])})


if __name__ == "__main__":
    raise SystemExit(main(work))
