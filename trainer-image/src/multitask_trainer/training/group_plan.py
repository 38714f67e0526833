"""The plan of stages 2 and 3 for one group: high-resource tasks, sampling probabilities, steps. Pure.

A task *needs* as many rows as its single-task run had been given when it saturated: need_i = saturation_i · batchRows.
Without ``minSaturationSteps`` (Auto) a task is high-resource if both hold:

- it saturates late: need_i is above `LATE` times the geometric mean of the group's needs (needs differ by orders of
  magnitude);
- stage 3 alone gives it clearly fewer rows than it needs: p_i · mixture steps · batchRows < `ENOUGH` · need_i.

The second alone would choose small tasks that saturate early but are rarely drawn. Both leave room for what a
saturation is known to, one validation: without it near-equal tasks get a stage 2 of a few steps. Stage 2 of these tasks
lasts as long as the largest shortfall, and takes none of them beyond `MOST_NEEDS` times its need. With
``minSaturationSteps`` a task is high-resource if it saturated at that step or later, and stage 2 has ``maxSteps``.

With ``stages.totalSteps`` a group has a share of steps for both stages. Stage 2 is chosen as if stage 3 had its default
budget, or the share if that is less, and takes at most half of the share; stage 3 has the rest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from multitask_api.errors import UserError
from multitask_api.resource.training import HighResourceStage, MixtureStage
from multitask_api.stage_io.results import GroupPlan
from multitask_api.stages.budgets import baseline_steps, divide
from multitask_api.stages.sampling import instance_balanced, mixture

MOST_NEEDS = 2.0
"""Auto: stages 2 and 3 together give a high-resource task at most this many times the rows that it needs."""
LATE = 1.25
"""Auto: a task that needs this many times the geometric mean saturates late."""
ENOUGH = 0.9
"""Auto: a task that stage 3 gives this share of its need lacks nothing."""
WARNED_NEEDS = 5.0
"""A task that is given more than this many times the rows that it needs repeats them for nothing."""


@dataclass(frozen=True)
class Saturation:
    """One task's single-task training, in steps; means over its seeds. A declared one has no chosen checkpoint."""

    saturation: float
    chosen: float = 0.0


@dataclass(frozen=True)
class GroupInputs:
    """What is known about one group: its tasks' training rows and, where there is one, their saturation."""

    name: str
    rows: Mapping[str, int]
    saturation: Mapping[str, Saturation]
    batch_rows: int
    is_trained: bool = True
    """False: the baseline of its only task answers it."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Task → its weight in the mixture; 1 of those that are not in it."""

    @property
    def need(self) -> dict[str, int]:
        """Task → rows it needs, for the tasks whose saturation is known.

        The chosen checkpoint does not count: ``minSteps`` and the decay put it later than what the task needs.
        """
        return {
            task: round(self.saturation[task].saturation * self.batch_rows)
            for task in self.rows
            if task in self.saturation
        }


@dataclass(frozen=True)
class _Stage2:
    """The high-resource tasks (none: the stage is skipped), why, and the steps; None: ``highResource.maxSteps``."""

    tasks: tuple[str, ...]
    reason: str
    steps: int | None = None


def divide_steps(total: int, groups: Sequence[GroupInputs]) -> dict[str, int]:
    """Group → its steps of stages 2 and 3, of ``total`` for all groups: in proportion to the default budgets.

    A group that is not trained has no share; the steps of its baseline are taken off. Raises UserError if nothing is
    left for the others.
    """
    weights = {inputs.name: _mixture_steps(inputs, MixtureStage(), []) for inputs in groups if inputs.is_trained}
    if not weights:
        return {}
    known = [inputs.saturation[task] for inputs in groups if not inputs.is_trained for task in inputs.rows]
    left = total - sum(baseline_steps(item.chosen, item.saturation) for item in known)
    try:
        return divide(left, weights)
    except ValueError as error:
        raise UserError(
            f"stages.totalSteps: {total} steps leave {max(0, left)} for the groups {', '.join(weights)}, after the"
            " baselines that answer a group by themselves; raise it"
        ) from error


def plan_group(
    inputs: GroupInputs, high_resource: HighResourceStage, stage3: MixtureStage, *, share: int | None = None
) -> GroupPlan:
    """Stage 2 and stage 3 of one group. ``share``: the steps of both; None: each has its own limit."""
    warnings: list[str] = []
    probabilities = mixture(
        inputs.rows, temperature=stage3.temperature, size_limit=stage3.size_limit, weights=inputs.weights
    )
    if share is None:
        steps = _mixture_steps(inputs, stage3, warnings)
    else:
        steps = min(share, _mixture_steps(inputs, MixtureStage(), warnings))
    rows3 = {task: part * steps * inputs.batch_rows for task, part in probabilities.items()}
    stage2 = _stage_2(inputs, high_resource, rows3)
    if share is not None:
        stage2 = _within_share(stage2, share, high_resource.max_steps)
        steps = share - (stage2.steps or 0)
        rows3 = {task: part * steps * inputs.batch_rows for task, part in probabilities.items()}
    shares2 = instance_balanced({task: inputs.rows[task] for task in stage2.tasks})
    steps2 = stage2.steps if stage2.steps is not None else high_resource.max_steps
    rows2 = {task: share * steps2 * inputs.batch_rows for task, share in shares2.items()}
    expected = {task: round(rows2.get(task, 0.0) + rows) for task, rows in rows3.items()}
    need = inputs.need
    more = "stages.mixture.maxSteps" if share is None else "stages.totalSteps"
    warnings += [
        f"{task} needs {need[task]} rows by its single-task run; stages 2 and 3 together give it about {rows}; "
        f"raise {more}, or its weight"
        for task, rows in expected.items()
        if rows < need.get(task, 0)
    ]
    warnings += [
        f"{task} needs {need[task]} rows by its single-task run; stages 2 and 3 together give it about {rows}, "
        f"{rows / inputs.rows[task]:.0f} times each of its rows; a lower mixture.temperature, a higher sizeLimit or a "
        "lower weight gives it fewer"
        for task, rows in expected.items()
        if rows > WARNED_NEEDS * need.get(task, math.inf)
    ]
    return GroupPlan(
        name=inputs.name,
        tasks=tuple(inputs.rows),
        high_resource=stage2.tasks,
        high_resource_probabilities=shares2,
        high_resource_steps=stage2.steps,
        reason=stage2.reason,
        probabilities=probabilities,
        mixture_steps=steps,
        need_rows=need,
        expected_rows=expected,
        expected_stage2_rows={task: round(rows) for task, rows in rows2.items()},
        expected_stage3_rows={task: round(rows) for task, rows in rows3.items()},
        warnings=tuple(warnings),
    )


def _within_share(stage2: _Stage2, share: int, limit: int) -> _Stage2:
    """``stage2`` in at most half of a group's ``share`` of steps; ``limit``: ``highResource.maxSteps``."""
    if not stage2.tasks:
        return stage2
    steps = min(limit if stage2.steps is None else stage2.steps, share // 2)
    if steps == 0:
        return _Stage2((), f"stage 2 is skipped: the group's share of stages.totalSteps is {share}")
    if steps == stage2.steps:
        return stage2
    reason = f"{stage2.reason}; it has {steps:,} of the {share:,} steps that are the group's of stages.totalSteps"
    return replace(stage2, steps=steps, reason=reason)


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


def _stage_2(inputs: GroupInputs, settings: HighResourceStage, rows3: Mapping[str, float]) -> _Stage2:
    """``rows3``: the rows that stage 3 gives each task."""
    if not settings.enabled:
        return _Stage2((), "stage 2 is switched off (stages.highResource.enabled)")
    if len(inputs.rows) == 1:
        return _Stage2((), "stage 2 is skipped: the group has one task, so it would be the mixture once more")
    need = inputs.need
    if not need:
        return _Stage2(
            (),
            "no task's saturation is known: there is no trained baseline and no declared saturationSteps, so stage 2 is"
            " skipped",
        )
    if settings.min_saturation_steps is None:
        return _auto(inputs, settings, rows3)
    minimum = settings.min_saturation_steps
    chosen = tuple(task for task in need if inputs.saturation[task].saturation >= minimum)
    if not chosen:
        return _Stage2((), f"stage 2 is skipped: no task saturates at step {minimum} or later")
    if len(chosen) == len(inputs.rows):
        return _Stage2(
            (),
            f"stage 2 is skipped: all tasks saturate at step {minimum} or later, so it would be the mixture once more",
        )
    return _Stage2(chosen, f"{', '.join(chosen)}: saturate at step {minimum} or later")


def _auto(inputs: GroupInputs, settings: HighResourceStage, rows3: Mapping[str, float]) -> _Stage2:
    need = inputs.need
    mean = math.exp(sum(math.log(max(1, rows)) for rows in need.values()) / len(need))
    late = [task for task, rows in need.items() if rows >= LATE * mean]
    if not late:
        return _Stage2((), "stage 2 is skipped: no task saturates later than the others of its group")
    chosen = tuple(task for task in late if rows3[task] < ENOUGH * need[task])
    if not chosen:
        return _Stage2(
            (), f"stage 2 is skipped: stage 3 gives what they need to the tasks that saturate late ({', '.join(late)})"
        )
    steps = _steps_of_stage_2(inputs, chosen, rows3, settings.max_steps)
    reason = (
        f"{', '.join(chosen)}: saturate late in their group (it needs {round(mean):,} rows a task, as a geometric mean)"
        f" and stage 3 gives them fewer rows than they need; stage 2 makes up for it in at most {steps:,} steps"
    )
    return _Stage2(chosen, reason, steps)


def _steps_of_stage_2(inputs: GroupInputs, chosen: Sequence[str], rows3: Mapping[str, float], limit: int) -> int:
    """Until no task lacks rows, unless ``limit`` or `MOST_NEEDS` ends it before; at least one step."""
    need = inputs.need
    rates = instance_balanced({task: inputs.rows[task] for task in chosen})
    rows_a_step = {task: rate * inputs.batch_rows for task, rate in rates.items()}
    shortfall = max((need[task] - rows3[task]) / rows_a_step[task] for task in chosen)
    most = min((MOST_NEEDS * need[task] - rows3[task]) / rows_a_step[task] for task in chosen)
    return max(1, min(limit, _round_up(math.ceil(shortfall)), math.floor(most)))


def _round_up(steps: int) -> int:
    """To the next number of four binary digits and zeros, at most an eighth more.

    The shortfall changes a little with every task that comes or goes; stage 2 is trained again if its steps change.
    """
    unit: int = 2 ** max(0, steps.bit_length() - 4)
    return -(-steps // unit) * unit
