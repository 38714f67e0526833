"""The plan of stages 2 and 3 for one group: high-resource tasks, sampling probabilities, steps of the mixture. Pure.

A task *needs* as many rows as its single-task run had been given at its saturation, or at its chosen checkpoint if that
is later: need_i = steps_i · batchRows. Without ``minSaturationSteps`` it is high-resource if the mixture alone would
give it fewer, p_i · mixture steps · batchRows < need_i; with it, if it saturated at that step or later.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from multitask_api.resource.training import HighResourceStage, MixtureStage
from multitask_api.stage_io.results import GroupPlan
from multitask_api.stages.sampling import instance_balanced, mixture


@dataclass(frozen=True)
class Saturation:
    """One task's single-task training, in steps; means over its seeds. A declared one has no chosen checkpoint."""

    saturation: float
    chosen: float = 0.0

    @property
    def steps(self) -> float:
        """The later of the two."""
        return max(self.saturation, self.chosen)


@dataclass(frozen=True)
class GroupInputs:
    """What is known about one group: its tasks' training rows and, where there is one, their saturation."""

    name: str
    rows: Mapping[str, int]
    saturation: Mapping[str, Saturation]
    batch_rows: int

    @property
    def need(self) -> dict[str, int]:
        """Task → rows it needs, for the tasks whose saturation is known."""
        return {
            task: round(self.saturation[task].steps * self.batch_rows) for task in self.rows if task in self.saturation
        }


def plan_group(inputs: GroupInputs, high_resource: HighResourceStage, stage3: MixtureStage) -> GroupPlan:
    """Stage 2 and stage 3 of one group."""
    warnings: list[str] = []
    probabilities = mixture(inputs.rows, temperature=stage3.temperature, size_limit=stage3.size_limit)
    steps = _mixture_steps(inputs, stage3, warnings)
    chosen, reason = _choose(inputs, high_resource, probabilities, steps)
    stage2 = instance_balanced({task: inputs.rows[task] for task in chosen})
    expected = {
        task: round(
            stage2.get(task, 0.0) * high_resource.max_steps * inputs.batch_rows + share * steps * inputs.batch_rows
        )
        for task, share in probabilities.items()
    }
    need = inputs.need
    warnings += [
        f"{task} needs {need[task]} rows by its single-task run; stages 2 and 3 together give it about {rows}"
        for task, rows in expected.items()
        if rows < need.get(task, 0)
    ]
    return GroupPlan(
        name=inputs.name,
        tasks=tuple(inputs.rows),
        high_resource=chosen,
        high_resource_probabilities=stage2,
        reason=reason,
        probabilities=probabilities,
        mixture_steps=steps,
        need_rows=need,
        expected_rows=expected,
        warnings=tuple(warnings),
    )


def _mixture_steps(inputs: GroupInputs, stage3: MixtureStage, warnings: list[str]) -> int:
    """``mixture.maxSteps``, or the steps that give the sum of the rows at the baselines' chosen checkpoints."""
    if stage3.max_steps is not None:
        return stage3.max_steps
    known = {task: inputs.saturation[task] for task in inputs.rows if task in inputs.saturation}
    missing = [task for task in inputs.rows if task not in known]
    if not known:
        # Without any saturation: five passes over the group's rows, each row once a pass on average.
        warnings.append(
            "no baseline says how long to train: the mixture gets five passes over its rows; "
            "set stages.mixture.maxSteps"
        )
        return max(1, math.ceil(5 * sum(inputs.rows.values()) / inputs.batch_rows))
    steps = sum(item.chosen or item.saturation for item in known.values())
    if missing:
        steps *= len(inputs.rows) / len(known)
        warnings.append(f"no saturation is known of {', '.join(missing)}: counted as the mean of the other tasks")
    return max(1, math.ceil(steps))


def _choose(
    inputs: GroupInputs, settings: HighResourceStage, probabilities: Mapping[str, float], steps: int
) -> tuple[tuple[str, ...], str]:
    """The high-resource tasks (none if stage 2 is skipped), and why."""
    if not settings.enabled:
        return (), "stage 2 is switched off (stages.highResource.enabled)"
    known = [task for task in inputs.rows if task in inputs.saturation]
    if not known:
        return (), (
            "no task's saturation is known: there is no trained baseline and no declared saturationSteps, so stage 2 is"
            " skipped"
        )
    minimum = settings.min_saturation_steps
    if minimum is not None:
        chosen = [task for task in known if inputs.saturation[task].saturation >= minimum]
        rule = f"saturate at step {minimum} or later"
    else:
        need = inputs.need
        chosen = [task for task in known if probabilities[task] * steps * inputs.batch_rows < need[task]]
        rule = f"need more rows than {steps} steps of the mixture give them"
    return _explained(chosen, list(inputs.rows), rule)


def _explained(chosen: Sequence[str], tasks: Sequence[str], rule: str) -> tuple[tuple[str, ...], str]:
    if not chosen:
        return (), f"stage 2 is skipped: no task would {rule}"
    if len(chosen) == len(tasks):
        return (), f"stage 2 is skipped: all tasks {rule}, so it would be the mixture once more"
    return tuple(chosen), f"{', '.join(chosen)}: {rule}"
