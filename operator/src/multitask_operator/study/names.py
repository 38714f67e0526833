"""The names under which the runs of a study are models of a work folder."""

from __future__ import annotations

import re


def run_name(study: str, arm: int, seed: int) -> str:
    """The name of a run's model; ``arm`` counts from 1. A DNS label, if the study's name has 40 characters at most."""
    return f"{study}-arm-{arm}-seed-{seed}"


def is_run(model: str, of: str | None = None) -> bool:
    """Whether ``model`` is the name of a run of the study ``of``, by default of any study."""
    study = r"[a-z0-9-]+" if of is None else re.escape(of)
    return re.fullmatch(rf"{study}-arm-\d+-seed-\d+", model) is not None
