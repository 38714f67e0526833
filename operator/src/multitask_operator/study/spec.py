"""The file of a study: a model, what is varied, and how often each arm is repeated; the names of its runs."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, ValidationError, model_validator

from multitask_api.errors import InvalidResource, Problem, raise_problems
from multitask_api.resource.parsing import problems_of
from multitask_api.resource.sources import DNS_LABEL, DnsLabel, Steps
from multitask_api.resource.yaml_loader import load
from multitask_api.types import Record

KIND = "Study"
MOST_ARMS = 64
MOST_SEEDS = 16


class StudyMetadata(Record):
    """The study's name."""

    name: Annotated[str, StringConstraints(pattern=DNS_LABEL, max_length=40)]


class Parameter(Record):
    """The values that one field of the model takes; null stands for a field that is left out."""

    values: Annotated[tuple[Any, ...], Field(min_length=1, max_length=MOST_ARMS)]


class StudyArm(Record):
    """One arm of a list: the model with some fields of its spec replaced, as a JSON merge patch (RFC 7396)."""

    name: DnsLabel
    spec: dict[str, Any] = Field(default_factory=dict)


class Study(Record):
    """The arms of a comparison: every combination of ``parameters``, or the list ``arms``; the first is the reference.

    Not a resource of the cluster: ``mtm study`` runs it on one machine.
    """

    api_version: Literal["multitask.dev/v1alpha1"] = "multitask.dev/v1alpha1"
    kind: Literal["Study"] = "Study"
    metadata: StudyMetadata
    model: Annotated[str, StringConstraints(min_length=1)] = Field(
        description="Path of the MultiTaskModel file, relative to this file."
    )
    parameters: dict[str, Parameter] = Field(
        default_factory=dict,
        description="Field of the model's spec, as in stages.mixture.temperature → its values. Every combination is an "
        "arm.",
    )
    arms: Annotated[tuple[StudyArm, ...], Field(max_length=MOST_ARMS)] = Field(
        (), description="In place of parameters."
    )
    seeds: int = Field(
        3, ge=1, le=MOST_SEEDS, description="Runs of each arm, with seeds of stages 2 and 3 that differ."
    )
    total_steps: Steps | None = Field(
        None,
        description="Optimizer steps of stages 2 and 3 of each run, over all groups. Default: stages.totalSteps of the "
        "model, else what the first arm has by default.",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        raise_problems(self._problems())
        return self

    def _problems(self) -> Iterator[Problem]:
        if bool(self.parameters) == bool(self.arms):
            have = "gives both" if self.arms else "names nothing that varies"
            yield Problem("", f"it {have}; give parameters, or a list of arms")
        elif self.number_of_arms == 1:
            yield Problem("", "it has one arm, and nothing to compare it with; give more values or arms")
        elif self.number_of_arms > MOST_ARMS:
            yield Problem(
                "parameters", f"{self.number_of_arms} combinations are more than {MOST_ARMS}; give fewer values"
            )
        names = [arm.name for arm in self.arms]
        for index, name in enumerate(names):
            if name in names[:index]:
                yield Problem(f"arms[{index}].name", f"{name!r} is already the name of another arm; rename one")

    @property
    def number_of_arms(self) -> int:
        """Arms of the list, or combinations of the values."""
        return len(self.arms) or math.prod(len(parameter.values) for parameter in self.parameters.values())


def parse(text: str) -> Study:
    """The study in a YAML text. Raises InvalidResource, which names every field that is wrong."""
    return check(load(text, "kind: Study, metadata, model, and parameters or arms"))


def check(document: Mapping[str, Any]) -> Study:
    """The study of plain data; raises as `parse`."""
    try:
        return Study.from_document(document)
    except ValidationError as error:
        raise InvalidResource(problems_of(error, Study)) from error


def run_name(study: str, arm: int, seed: int) -> str:
    """The name under which a run is a model of a work folder; ``arm`` counts from 1; 0 has no run of its own.

    A DNS label, if the study's name has 40 characters at most.
    """
    return f"{study}-arm-{arm}-seed-{seed}"


def is_run(model: str, of: str | None = None) -> bool:
    """Whether ``model`` is the name of a run of the study ``of``, by default of any study."""
    study = r"[a-z0-9-]+" if of is None else re.escape(of)
    return re.fullmatch(rf"{study}-arm-\d+-seed-\d+", model) is not None
