"""Stage ``high-resource``: stage 2 of arXiv 2411.03644, only the tasks that need many steps, instance-balanced."""

from __future__ import annotations

import sys

from multitask_api.stage_io.parameters import TrainParameters
from multitask_trainer.runtime.context import StageContext, StageOutcome
from multitask_trainer.runtime.runner import main
from multitask_trainer.storage.files import content_digest
from multitask_trainer.training.run import sampling_table, train


def work(stage: StageContext) -> StageOutcome:
    """Train from the base; the checkpoint with the highest mean validation score is kept in ``weights/``."""
    parameters = stage.parameters(TrainParameters)
    result = train(stage, parameters)
    stage.distributed.exit_workers()
    sys.stdout.write(f"{sampling_table(result, parameters)}\n")
    return StageOutcome(result, {"model": content_digest(stage.artifact_folder, ["weights"])})


if __name__ == "__main__":
    raise SystemExit(main(work))
