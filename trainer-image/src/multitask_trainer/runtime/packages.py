"""Python packages that a setting needs and that are no dependency of ours: whether they are there."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator, Sequence

from multitask_api.resource import MultiTaskModelSpec
from multitask_api.resource.training import Optimizer, Tracker
from multitask_api.resource.tuning import Tuning
from multitask_trainer.errors import StageError

QUANTIZATION = "bitsandbytes"
"""Optimizer states in 8 bits, and frozen bases in 4."""


TRACKERS: dict[Tracker, str] = {"TensorBoard": "tensorboard", "WandB": "wandb", "MLflow": "mlflow"}
"""Experiment tracker → the Python package, which is also Accelerate's name of it."""


def package_problems(spec: MultiTaskModelSpec) -> list[str]:
    """Every setting of ``spec`` that cannot be had on this machine, because its package is not installed."""
    training = spec.training
    return [*_quantization_problems(training.optimizer, spec.tuning), *_tracker_problems(training.report_to)]


def check_quantization(optimizer: Optimizer | None, tuning: Tuning | None) -> None:
    """Raise `StageError` unless the package of every setting for fewer bits is there and can be imported."""
    _raise(_quantization_problems(optimizer, tuning))
    for field, value in _settings(optimizer, tuning):
        try:
            importlib.import_module(QUANTIZATION)
        except Exception as error:  # whatever a broken installation raises
            raise StageError(
                f"{field}: {value}: the Python package {QUANTIZATION} cannot be imported ({error}); install another "
                "version of it, or remove the setting"
            ) from error


def check_trackers(names: Sequence[Tracker] | None) -> None:
    """Raise `StageError` unless the package of every experiment tracker is there."""
    _raise(_tracker_problems(names))


def _settings(optimizer: Optimizer | None, tuning: Tuning | None) -> Iterator[tuple[str, str]]:
    if optimizer == "AdamW8bit":
        yield "training.optimizer", optimizer
    if tuning is not None and tuning.quantization is not None:
        yield "tuning.quantization", tuning.quantization


def _quantization_problems(optimizer: Optimizer | None, tuning: Tuning | None) -> list[str]:
    return _missing([(field, value, QUANTIZATION) for field, value in _settings(optimizer, tuning)])


def _tracker_problems(names: Sequence[Tracker] | None) -> list[str]:
    return _missing([("training.reportTo", name, TRACKERS[name]) for name in names or ()])


def _missing(needs: Sequence[tuple[str, str, str]]) -> list[str]:
    """Of (field, value, package) those whose package is not installed."""
    return [
        f"{field}: {value} needs the Python package {package}, which is not installed where this model trains; install"
        " it there, in a cluster in the trainer image, or remove it"
        for field, value, package in needs
        if importlib.util.find_spec(package) is None
    ]


def _raise(problems: Sequence[str]) -> None:
    if problems:
        raise StageError("\n".join(problems))
