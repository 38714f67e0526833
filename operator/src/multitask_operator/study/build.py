"""The report of a study, from the graphs of its runs. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

from multitask_api.resource import MultiTaskModel
from multitask_api.stages import ArtifactKey, Graph
from multitask_operator.formatting import counted, listed
from multitask_operator.planner import Failed
from multitask_operator.report.origin import base_model
from multitask_operator.study.arms import Arm, Run
from multitask_operator.study.conclusion import FEWEST_SEEDS, Comparison, conclusion, more_seeds
from multitask_operator.study.graphs import StudyGraphs, Target, done_keys
from multitask_operator.study.reference import (
    ReferenceBaseline,
    baseline_keys,
    compared_tasks,
    left_out,
    reference_baselines,
    what_to_do,
)
from multitask_operator.study.report import (
    StudyArmReport,
    StudyCost,
    StudyDifference,
    StudyReport,
    StudyRun,
    StudyStages,
)
from multitask_operator.study.results import base_key, failure_notes, rows_notes, run_results
from multitask_operator.study.same_training import same_notes, same_training
from multitask_operator.study.statistics import Difference, mean_sd, paired_difference


def build_study_report(
    name: str,
    model: MultiTaskModel,
    graphs: StudyGraphs,
    failures: Sequence[Failed],
    *,
    before: frozenset[ArtifactKey] = frozenset(),
    now: float | None = None,
) -> StudyReport:
    """The report of what is known now.

    ``before``: the results that were in storage before this call; ``now``: Unix seconds.
    """
    baselines = reference_baselines(graphs)
    results = run_results(graphs, baselines, failures)
    judged = tuple(task.name for task in model.spec.tasks if task.name in compared_tasks(baselines))
    arms = list(dict.fromkeys(run.arm.name for run in results))
    by_arm = {arm: {run: item for run, item in results.items() if run.arm.name == arm} for arm in arms}
    same = same_training(graphs.of_runs)
    others = [arm for arm in arms[1:] if arm not in same]
    comparisons = [_comparison(arm, by_arm[arm], by_arm[arms[0]], len(others)) for arm in others]
    compared = {item.arm: item for item in comparisons}
    reports = tuple(_arm(arm, by_arm[arm], compared.get(arm), by_arm[arms[0]], graphs, same.get(arm)) for arm in arms)
    return StudyReport(
        name=name,
        model=model.metadata.name,
        written=None if now is None else datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d %H:%M UTC"),
        base_model=base_model(model, graphs.targets[0].graph),
        total_steps=graphs.total_steps,
        batch_rows=model.spec.training.batch_rows,
        seeds=tuple(dict.fromkeys(run.seed for run in results)),
        tasks=tuple(task.name for task in model.spec.tasks),
        judged=judged,
        arms=reports,
        conclusion=conclusion(
            arms[0],
            comparisons,
            len(judged),
            seeds=len(by_arm[arms[0]]),
            left_out=left_out(baselines),
        ),
        warnings=(
            *failure_notes(graphs, failures),
            *_warnings(reports, comparisons, baselines, model),
            *rows_notes(graphs),
            *hints(graphs.of_runs),
        ),
        cost=_cost(graphs, before),
    )


def _comparison(
    arm: str, runs: Mapping[Run, StudyRun], reference: Mapping[Run, StudyRun], comparisons: int
) -> Comparison:
    """An arm against the reference, over the seeds that both have finished."""
    pairs = list(_pairs(runs, reference))
    if not pairs:
        return Comparison(arm, 0, None)
    rows = {run.rows for pair in pairs for run in pair}
    differences = [
        own.mean_ratio - other.mean_ratio
        for own, other in pairs
        if own.mean_ratio is not None and other.mean_ratio is not None
    ]
    difference = paired_difference(differences, comparisons) if differences else Difference(0.0)
    return Comparison(arm, len(pairs), difference, equal_rows=len(rows) == 1)


def _pairs(runs: Mapping[Run, StudyRun], reference: Mapping[Run, StudyRun]) -> Iterator[tuple[StudyRun, StudyRun]]:
    """The finished runs of an arm, each with that of the reference of the same seed."""
    of_reference = {item.seed: item for item in reference.values() if item.finished}
    for item in runs.values():
        if item.finished and item.seed in of_reference:
            yield item, of_reference[item.seed]


def _arm(
    name: str,
    runs: Mapping[Run, StudyRun],
    comparison: Comparison | None,
    reference: Mapping[Run, StudyRun],
    graphs: StudyGraphs,
    same: str | None,
) -> StudyArmReport:
    arm: Arm = next(iter(runs)).arm
    ratios = [item.mean_ratio for item in runs.values() if item.mean_ratio is not None]
    mean, deviation = mean_sd(ratios) if ratios else (None, None)
    own, first = _graph_of(name, graphs), _graph_of(next(iter(reference)).arm.name, graphs)
    return StudyArmReport(
        name=name,
        changes=dict(arm.changes),
        runs=tuple(runs.values()),
        mean=mean,
        deviation=deviation,
        difference=_difference(comparison, runs, reference),
        stages=_stages(name, graphs),
        own_baselines=baseline_keys(own) != baseline_keys(first),
        same_training=same,
        own_base=base_key(own) != base_key(first),
    )


def _difference(
    comparison: Comparison | None, runs: Mapping[Run, StudyRun], reference: Mapping[Run, StudyRun]
) -> StudyDifference | None:
    found = comparison.difference if comparison is not None else None
    seeds = tuple(own.seed for own, _ in _pairs(runs, reference) if own.mean_ratio is not None)
    if found is None or not seeds:
        return None
    interval = None if found.low is None or found.high is None else (found.low, found.high)
    return StudyDifference(value=found.value, interval=interval, seeds=seeds)


def _graph_of(arm: str, graphs: StudyGraphs) -> Graph:
    """That of the arm's first run: what comes before stage 2 is the same in all of them."""
    return next(target.graph for target in graphs.of_runs if target.run is not None and target.run.arm.name == arm)


def _stages(arm: str, graphs: StudyGraphs) -> StudyStages:
    own: set[ArtifactKey] = set()
    others: set[ArtifactKey] = set()
    for target in graphs.of_runs:
        (own if target.run is not None and target.run.arm.name == arm else others).update(done_keys(target.graph))
    return StudyStages(total=len(own), shared=len(own & others))


def _cost(graphs: StudyGraphs, before: frozenset[ArtifactKey]) -> StudyCost:
    seconds: dict[ArtifactKey, float] = {}
    shared = 0.0
    for target in graphs.of_runs:
        for node in target.graph.nodes:
            if node.manifest is None or node.digest is None or (node.name, node.digest) in seconds:
                continue
            seconds[node.name, node.digest] = node.manifest.seconds
            shared += node.manifest.seconds if node.kind in ("prepare", "base", "baseline", "gradients") else 0.0
    return StudyCost(
        uses=sum(len(done_keys(target.graph)) for target in graphs.of_runs),
        results=len(seconds),
        ran=len(seconds.keys() - before),
        seconds=round(sum(seconds.values()), 3),
        shared_seconds=round(shared, 3),
    )


def hints(targets: Sequence[Target]) -> tuple[str, ...]:
    """Settings of arms that are valid and probably not intended, with the arms that have them."""
    models = {target.run.arm.name: target.model for target in targets if target.run is not None}
    found: dict[str, list[str]] = {}
    for arm, model in models.items():
        for text in model.spec.hints():
            found.setdefault(text, []).append(arm)
    return tuple(text if len(arms) == len(models) else f"{listed(arms)}: {text}" for text, arms in found.items())


def _warnings(
    arms: Sequence[StudyArmReport],
    comparisons: Sequence[Comparison],
    baselines: Mapping[str, ReferenceBaseline],
    model: MultiTaskModel,
) -> Iterator[str]:
    """What a reader should know before trusting the figures."""
    reference = arms[0].name
    seeds = len(arms[0].runs)
    if seeds < FEWEST_SEEDS:
        yield f"{counted(seeds, 'seed')} an arm: nothing is supported by fewer than {FEWEST_SEEDS}"
    yield from same_notes({arm.name: arm.same_training for arm in arms if arm.same_training is not None})
    unfinished = sum(run.state == "Unfinished" for arm in arms for run in arm.runs)
    if unfinished:
        yield f"not finished: {counted(unfinished, 'run')}; run the same command again to go on"
    unequal = [item.arm for item in comparisons if item.seeds and not item.equal_rows]
    if unequal:
        yield f"{listed(unequal)}: not as many rows as {reference}, so not compared"
    yield from what_to_do(baselines)
    if compared_tasks(baselines):
        yield from more_seeds(comparisons)
    own_base = [arm.name for arm in arms if arm.own_base]
    if own_base:
        yield f"{listed(own_base)}: another base than that of {reference}; rows of pre-training are not counted"
    own_baselines = [arm.name for arm in arms if arm.own_baselines and any(run.finished for run in arm.runs)]
    if own_baselines:
        yield (
            f"{listed(own_baselines)}: ratios are by the baselines of {reference}, so that they can be compared with"
            " those of the other arms; what is qualified is judged by baselines of their own, and cannot"
        )
    if model.spec.stages.baseline.enabled and model.spec.stages.baseline.seeds == 1:
        yield "each baseline has one seed: its luck is in the ratios of all arms alike, and confirms no verdict"
