"""Python packages that a setting needs and that are no dependency of ours: whether they are there."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator

from multitask_api.resource.training import Optimizer
from multitask_api.resource.tuning import Tuning
from multitask_trainer.errors import StageError

QUANTIZATION = "bitsandbytes"
"""Optimizer states in 8 bits, and frozen bases in 4."""


def package_problem(field: str, value: str, package: str) -> str | None:
    """Why the setting cannot be had on this machine; None if its package is installed."""
    if importlib.util.find_spec(package) is not None:
        return None
    return (
        f"{field}: {value} needs the Python package {package}, which is not installed where this model trains; install"
        " it there, in a cluster in the trainer image, or remove it"
    )


def quantization_problems(optimizer: Optimizer | None, tuning: Tuning | None) -> list[str]:
    """`package_problem` of every setting for fewer bits."""
    return [problem for field, value in _settings(optimizer, tuning) if (problem := _problem(field, value))]


def check_quantization(optimizer: Optimizer | None, tuning: Tuning | None) -> None:
    """Raise `StageError` unless the package of every setting for fewer bits is there and can be imported."""
    problems = quantization_problems(optimizer, tuning)
    if problems:
        raise StageError("\n".join(problems))
    for field, value in _settings(optimizer, tuning):
        try:
            importlib.import_module(QUANTIZATION)
        except Exception as error:  # whatever a broken installation raises
            raise StageError(
                f"{field}: {value}: the Python package {QUANTIZATION} cannot be imported ({error}); install another "
                "version of it, or remove the setting"
            ) from error


def _settings(optimizer: Optimizer | None, tuning: Tuning | None) -> Iterator[tuple[str, str]]:
    if optimizer == "AdamW8bit":
        yield "training.optimizer", optimizer
    if tuning is not None and tuning.quantization is not None:
        yield "tuning.quantization", tuning.quantization


def _problem(field: str, value: str) -> str | None:
    return package_problem(field, value, QUANTIZATION)
