"""From the graphs of a study's runs to what each run came to. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from multitask_api.stage_io.results import FilterResult, TaskVerdict, TrainResult
from multitask_api.stages import Graph, Node, NodeState
from multitask_operator.formatting import listed
from multitask_operator.planner import Failed, training_result_of, verdicts_of
from multitask_operator.study.arms import Run, names_of_runs
from multitask_operator.study.graphs import StudyGraphs, Target, steps_of_baseline
from multitask_operator.study.reference import ReferenceBaseline, compared_tasks
from multitask_operator.study.report import StudyRun, TaskOutcome

NOT_FINISHED = "it is not finished; run the same command again to go on"
_OF_A_RUN = ("high-resource", "mixture", "bundle", "evaluate")


@dataclass(frozen=True)
class Training:
    """What the models of a run were trained on in stages 2 and 3, over all groups."""

    rows: Mapping[str, int]
    """Task → rows."""
    tokens: int
    validations: tuple[int, ...]


def run_results(
    graphs: StudyGraphs, baselines: Mapping[str, ReferenceBaseline], failures: Sequence[Failed]
) -> dict[Run, StudyRun]:
    """Every run of the study; ``baselines``: those of the reference arm, which all ratios are by."""
    of_all = _of_all_runs(graphs)
    results = {}
    for target in graphs.of_runs:
        if target.run is None:
            continue
        if graphs.total_steps is not None and target.graph.finished:
            results[target.run] = _finished(target.run, target, baselines)
        else:
            results[target.run] = _without_result(target.run, [*of_all, target.graph], failures)
    return results


def failure_notes(graphs: StudyGraphs, failures: Sequence[Failed]) -> Iterator[str]:
    """Each message once, with the runs that it leaves without a result."""
    of_all = _of_all_runs(graphs)
    found: dict[str, list[tuple[Run, Failed]]] = {}
    for target in graphs.of_runs:
        for item in _failures_in([*of_all, target.graph], failures):
            if target.run is not None:
                found.setdefault(item.failure.message, []).append((target.run, item))
    runs = [target.run for target in graphs.of_runs if target.run is not None]
    for message, each in found.items():
        stages = list(dict.fromkeys(item.failure.stage for _, item in each))
        logs = list(dict.fromkeys(item.log for _, item in each))
        named = f"{'stage' if len(stages) == 1 else 'stages'} {listed(stages)}"
        more = f" and {len(logs) - 1:,} more" if len(logs) > 1 else ""
        yield f"{names_of_runs([run for run, _ in each], runs)}: {named} failed: {message} (log: {logs[0]}{more})"


def rows_notes(graphs: StudyGraphs) -> Iterator[str]:
    """The tasks that runs give fewer rows than their baselines needed, by what the filter planned: one text."""
    runs = [target.run for target in graphs.of_runs if target.run is not None]
    short: dict[str, list[tuple[Run, int, int]]] = {}
    for target in graphs.of_runs:
        manifest = target.graph["filter"].manifest if "filter" in target.graph else None
        plans = FilterResult.model_validate(manifest.result).groups if manifest is not None else ()
        for plan in plans:
            for task, need in plan.need_rows.items():
                given = plan.expected_rows.get(task, need)
                if given < need and target.run is not None:
                    short.setdefault(task, []).append((target.run, given, need))
    tasks = [
        f"{task} needs {max(need for _, _, need in each):,} and gets about {min(given for _, given, _ in each):,}"
        f" ({names_of_runs([run for run, _, _ in each], runs)})"
        for task, each in short.items()
    ]
    if tasks:
        steps = f", now {graphs.total_steps:,}" if graphs.total_steps is not None else ""
        yield f"fewer rows than the baselines needed: {'; '.join(tasks)}; raise totalSteps of the study{steps}"


def training_of(graph: Graph, batch_rows: int) -> Training:
    """Of a finished graph. A group that its task's baseline answers counts up to the chosen step of the baseline."""
    rows: dict[str, int] = {}
    tokens, validations = 0, []
    for node in (*graph.of_kind("high-resource"), *graph.of_kind("mixture")):
        result = training_result_of(node)
        if result is not None:
            given, used = result.rows_given, result.tokens
            validations += [len(result.curve)] if node.kind == "mixture" else []
        elif node.stand_in is not None:
            given, used = _of_baseline(graph, node, batch_rows)
        else:
            continue
        tokens += used
        for task, count in given.items():
            rows[task] = rows.get(task, 0) + count
    return Training(rows, tokens, tuple(validations))


def base_key(graph: Graph) -> str | None:
    """The digest of its base model."""
    return graph["base"].digest


def seconds_of(graph: Graph, kinds: Sequence[str]) -> float:
    """Seconds of the processes of its stages of ``kinds``, by their manifests."""
    return sum(node.manifest.seconds for node in graph.nodes if node.kind in kinds and node.manifest is not None)


def _finished(run: Run, target: Target, baselines: Mapping[str, ReferenceBaseline]) -> StudyRun:
    graph = target.graph
    training = training_of(graph, target.model.spec.training.batch_rows)
    tasks = {
        name: _outcome(verdict, baselines.get(name), training.rows.get(name, 0))
        for name, verdict in verdicts_of(graph).items()
    }
    verdicts = [item.verdict for item in tasks.values()]
    compared = compared_tasks(baselines)
    ratios = [item.ratio for name, item in tasks.items() if name in compared and item.ratio is not None]
    return StudyRun(
        seed=run.seed,
        tasks={task.name: tasks[task.name] for task in target.model.spec.tasks if task.name in tasks},
        qualified=verdicts.count("Qualified"),
        inconclusive=verdicts.count("Inconclusive"),
        rows=sum(training.rows.values()),
        tokens=training.tokens,
        seconds=round(seconds_of(graph, _OF_A_RUN), 3),
        validations=training.validations,
        mean_ratio=fmean(ratios) if ratios else None,
    )


def _of_all_runs(graphs: StudyGraphs) -> list[Graph]:
    """While the steps are not known, what they follow from is of all runs."""
    return [target.graph for target in graphs.targets if target.run is None and graphs.total_steps is None]


def _failures_in(graphs: Sequence[Graph], failures: Sequence[Failed]) -> list[Failed]:
    """The failures of stages that ``graphs`` still need."""
    wanted = {(node.name, node.digest) for graph in graphs for node in graph.nodes if node.state is not NodeState.DONE}
    return [item for item in failures if (item.failure.stage, item.digest) in wanted]


def _without_result(run: Run, graphs: Sequence[Graph], failures: Sequence[Failed]) -> StudyRun:
    """A run that a failure in ``graphs``, or a stop, has left without a result."""
    failed = _failures_in(graphs, failures)
    if not failed:
        return StudyRun(seed=run.seed, state="Unfinished", failure=NOT_FINISHED)
    reasons = (f"stage {item.failure.stage} failed: {item.failure.message} (log: {item.log})" for item in failed)
    return StudyRun(seed=run.seed, state="Failed", failure="; ".join(reasons))


def _outcome(verdict: TaskVerdict, reference: ReferenceBaseline | None, rows: int) -> TaskOutcome:
    by = reference.score if reference is not None else None
    ratio = verdict.score / by if by is not None and by > 0 else None
    return TaskOutcome(score=verdict.score, baseline=verdict.baseline, ratio=ratio, verdict=verdict.verdict, rows=rows)


def _of_baseline(graph: Graph, node: Node, batch_rows: int) -> tuple[dict[str, int], int]:
    """Rows by task, and tokens, of the group that a baseline answers."""
    task = graph.groups[node.name.partition("/")[2]][0]
    steps = steps_of_baseline(graph, task) or 0
    result: TrainResult | None = training_result_of(graph[node.stand_in]) if node.stand_in is not None else None
    tokens_a_step = result.tokens / result.steps if result is not None and result.steps else 0.0
    return {task: steps * batch_rows}, round(steps * tokens_a_step)
