"""Sends what a training run reports to the user's experiment trackers: TensorBoard, Weights & Biases, MLflow.

Their own libraries do it, through Accelerate's trackers; none of them is a dependency of ours. They are configured as
everywhere, by their environment variables.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from multitask_api.resource.training import Tracker
from multitask_api.stage_io.results import TaskPoint
from multitask_trainer.errors import StageError
from multitask_trainer.runtime.context import StageContext
from multitask_trainer.runtime.packages import check_trackers

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker


class Tracking:
    """The trackers of one run; without any, nothing happens.

    A tracker that fails is left out from then on, with a line in the log: no run ends for its sake.
    """

    def __init__(self, trackers: Sequence[GeneralTracker] = ()) -> None:
        self._trackers = list(trackers)

    def add(self, tracker: GeneralTracker) -> None:
        """Report to ``tracker`` too, which has been started."""
        self._trackers.append(tracker)

    def log_training(self, step: int, *, loss: float, rate: float, tokens_per_second: float | None) -> None:
        """Report the mean loss of the last steps, and the learning rate of the last one."""
        values = {"train/loss": loss, "train/learning_rate": rate}
        if tokens_per_second is not None:
            values["train/tokens_per_second"] = tokens_per_second
        self._log(values, step)

    def log_validation(self, step: int, points: Mapping[str, TaskPoint]) -> None:
        """Report loss and score of every task."""
        for task, point in points.items():
            self._log({f"eval/{task}/loss": point.loss, f"eval/{task}/score": point.score}, step)

    def finish(self) -> None:
        """Send what is left."""
        self._each(lambda tracker: tracker.finish())

    def _log(self, values: dict[str, float], step: int) -> None:
        self._each(lambda tracker: tracker.log(values, step=step))

    def _each(self, call: Callable[[GeneralTracker], object]) -> None:
        for tracker in tuple(self._trackers):
            try:
                call(tracker)
            except Exception as error:  # noqa: BLE001 - whatever a tracker raises, training goes on
                sys.stderr.write(f"{tracker.name} is left out from here on: {type(error).__name__}: {error}\n")
                self._trackers.remove(tracker)


@contextmanager
def tracking_of(stage: StageContext) -> Iterator[Tracking]:
    """The trackers of ``training.reportTo``, on the main process; they are finished however the training ends.

    Raises `StageError` if the package of one is missing or it cannot start: that is known before anything is trained.
    """
    names = stage.order.report_to or ()
    check_trackers(names)
    tracking = Tracking()
    try:
        for name in names if stage.distributed.is_main_process else ():
            tracking.add(_start(name, stage))
        yield tracking
    finally:
        tracking.finish()


def keep_tensorboard_files(stage: StageContext) -> None:
    """Put the files of TensorBoard beside the weights, unless a folder for them is configured."""
    written = _own_folder(stage)
    if written.is_dir():
        shutil.move(written, stage.artifact_folder / "tensorboard")


def _start(name: Tracker, stage: StageContext) -> GeneralTracker:
    from accelerate.tracking import MLflowTracker, TensorBoardTracker, WandBTracker

    order = stage.order
    run = f"{order.stage} {order.digest}"
    if name == "TensorBoard":
        configured = os.environ.get("TENSORBOARD_LOGGING_DIR")  # as in Hugging Face Transformers
        folder = Path(configured) / order.model / order.stage / order.digest if configured else _own_folder(stage)
        tracker: GeneralTracker = TensorBoardTracker("", folder)
    elif name == "WandB":
        tracker = WandBTracker(os.environ.get("WANDB_PROJECT", order.model.replace("/", "-")), name=run)
    else:
        tracker = MLflowTracker(order.model, run_name=run)
    try:
        tracker.start()
    except Exception as error:
        raise StageError(f"training.reportTo: {name} cannot start: {type(error).__name__}: {error}") from error
    return tracker


def _own_folder(stage: StageContext) -> Path:
    """In the work folder, because a run that is resumed adds to it."""
    return stage.work_folder / "tensorboard"
