"""``mtm study --plan``: the arms, which stages are cached, run or shared, and what it costs. Runs nothing."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path
from shlex import join

from multitask_operator.commands import OK
from multitask_operator.commands.console import print_json, print_line, table
from multitask_operator.commands.costs import NOT_COUNTED, cost_text
from multitask_operator.commands.study.loading import LoadedStudy, load
from multitask_operator.formatting import counted
from multitask_operator.local.model_file import device
from multitask_operator.local.speed import expected_speed
from multitask_operator.planner.estimate import Estimate
from multitask_operator.report.origin import base_parameters
from multitask_operator.study.build import hints
from multitask_operator.study.conclusion import FEWEST_SEEDS
from multitask_operator.study.forecast import arm_counts, cost_of, stage_counts
from multitask_operator.study.graphs import StudyGraphs, study_graphs
from multitask_operator.study.results import rows_notes
from multitask_operator.study.same_training import same_notes, same_training


def plan(
    file: Path, workdir: Path | None, *, as_json: bool, device_option: str = "auto", options: Sequence[str] = ()
) -> int:
    """Show the plan of the study in ``file``. ``options``: those that the next command needs too."""
    loaded = load(file)
    folder = loaded.workdir(workdir)
    runs = loaded.resolved(folder, rows=True)
    graphs = study_graphs(runs, loaded.total_steps, folder.manifests(), preview=True)
    parameters = base_parameters(graphs.targets[0].graph)
    known = runs[0][1].base_parameters if parameters is None else parameters
    cost = cost_of(
        graphs,
        platform.node(),
        lambda model: expected_speed(model, device(model, device_option), known),
    )
    if as_json:
        print_json(_to_json(loaded, graphs, cost))
        return OK
    _print(loaded, graphs, cost)
    if cost.steps:
        print_line(f"tokens: {cost.lengths}")
        print_line(NOT_COUNTED)
    print_line(f"training left: {cost_text(cost)}")
    print_line(f"next: {join(['mtm', 'study', str(file), *options])}")
    return OK


def _print(loaded: LoadedStudy, graphs: StudyGraphs, cost: Estimate) -> None:
    seeds = loaded.study.seeds
    arms = arm_counts(graphs.of_runs)
    same = same_training(graphs.of_runs)
    names = {arms[0].arm: "reference"} | {arm: f"same training as {first}" for arm, first in same.items()}
    rows = [(arm.arm, names.get(arm.arm, ""), f"{arm.results:,}", f"{arm.cached:,}", f"{arm.shared:,}") for arm in arms]
    columns = ("arm", "", "stages", "cached", "shared with other arms")
    table(f"{counted(len(arms), 'arm')}, {counted(seeds, 'seed')} each", columns, rows, right=columns[2:])
    counts = stage_counts(graphs.of_runs)
    kinds = [
        (item.kind, f"{item.uses:,}", f"{item.results:,}", f"{item.cached:,}", f"{item.will_run:,}") for item in counts
    ]
    columns = ("stage", "in all runs", "different ones", "cached", "will run")
    table("", columns, kinds, right=columns[1:])
    if graphs.total_steps is None:
        print_line(f"steps of stages 2 and 3: as many as {arms[0].arm} has by default, known once baselines are done")
    else:
        print_line(f"steps of stages 2 and 3: {graphs.total_steps:,} in every run, over all groups")
    for note in same_notes(same):
        print_line(f"note: {note}")
    for note in rows_notes(graphs):
        print_line(f"note: {note}")
    for hint in hints(graphs.of_runs):
        print_line(f"note: {hint}")
    if seeds < FEWEST_SEEDS:
        print_line(f"note: {counted(seeds, 'seed')} an arm: nothing is supported by fewer than {FEWEST_SEEDS}")


def _to_json(loaded: LoadedStudy, graphs: StudyGraphs, cost: Estimate) -> dict[str, object]:
    """As ``mtm study --plan --output json`` prints it."""
    same = same_training(graphs.of_runs)
    return {
        "study": loaded.name,
        "model": loaded.model.metadata.name,
        "seeds": loaded.study.seeds,
        "totalSteps": graphs.total_steps,
        "arms": [
            {"name": item.arm, "stages": item.results, "cached": item.cached, "shared": item.shared}
            | ({"sameTraining": same[item.arm]} if item.arm in same else {})
            for item in arm_counts(graphs.of_runs)
        ],
        "stages": [
            {"kind": item.kind, "uses": item.uses, "results": item.results, "cached": item.cached}
            for item in stage_counts(graphs.of_runs)
        ],
        "cost": {
            "atMostSteps": cost.steps,
            "atMostRows": cost.rows,
            "atMostTokens": cost.tokens,
            "tokensFrom": cost.lengths,
            "atMostSeconds": None if cost.seconds is None else round(cost.seconds),
        },
    }
