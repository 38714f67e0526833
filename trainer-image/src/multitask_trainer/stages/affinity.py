"""Stage ``affinity``: compares the gradients of all tasks and groups the tasks; no model is read."""

from __future__ import annotations

import numpy as np

from multitask_api.stage_io.affinity import AffinityResult
from multitask_api.stage_io.parameters import AffinityParameters
from multitask_api.stages.digests import digest
from multitask_trainer.affinity.estimate import Affinities, estimate
from multitask_trainer.affinity.grouping import find_groups
from multitask_trainer.affinity.sketch import SKETCHES
from multitask_trainer.runtime.context import StageContext, StageOutcome
from multitask_trainer.runtime.runner import main


def work(stage: StageContext) -> StageOutcome:
    """Estimate every pair of tasks, then decide which are trained together."""
    parameters = stage.parameters(AffinityParameters)
    tasks = [task for members in parameters.candidates.values() for task in members]
    found = estimate({task: np.load(stage.input(f"gradients/{task}") / SKETCHES) for task in tasks})
    grouping = find_groups(parameters.candidates, found, parameters.max_groups)
    result = to_result(found, grouping.groups, grouping.reasons)
    return StageOutcome(result, {"groups": digest(result.to_json())})


def to_result(found: Affinities, groups: dict[str, tuple[str, ...]], reasons: tuple[str, ...]) -> AffinityResult:
    """As the manifest has it: each pair once, three digits."""
    numbers = range(len(found.tasks))
    return AffinityResult(
        groups=groups,
        tasks=found.tasks,
        affinity=tuple(tuple(round(float(found.values[i, j]), 3) for j in range(i)) for i in numbers),
        half_width=tuple(tuple(round(float(found.half_widths[i, j]), 3) for j in range(i)) for i in numbers),
        reasons=reasons,
    )


if __name__ == "__main__":
    raise SystemExit(main(work))
