"""From the graphs of a study's runs to what each run came to. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from multitask_api.stage_io.results import TaskVerdict, TrainResult
from multitask_api.stages import ArtifactKey, Graph, Node, NodeState
from multitask_operator.planner import Failed, training_result_of, verdicts_of
from multitask_operator.study.arms import Run
from multitask_operator.study.graphs import StudyGraphs, Target, done_keys, steps_of_baseline
from multitask_operator.study.report import StudyRun, TaskOutcome

JUDGED = ("Qualified", "NotQualified")
NOT_FINISHED = "it is not finished; run the same command again to go on"
_OF_A_RUN = ("high-resource", "mixture", "bundle", "evaluate")


@dataclass(frozen=True)
class Training:
    """What the models of a run were trained on in stages 2 and 3, over all groups."""

    rows: Mapping[str, int]
    """Task → rows."""
    tokens: int
    validations: tuple[int, ...]


def run_results(graphs: StudyGraphs, failures: Sequence[Failed]) -> dict[Run, StudyRun]:
    """Every run of the study; its ratios are by the baselines of the first run that has finished."""
    targets = [(target.run, target) for target in graphs.of_runs if target.run is not None]
    known = graphs.total_steps is not None
    first = next((target for _, target in targets if known and target.graph.finished), None)
    baselines = {} if first is None else {task: item.baseline for task, item in verdicts_of(first.graph).items()}
    return {run: _result(run, target, baselines, failures, is_whole=known) for run, target in targets}


def judged_tasks(results: Sequence[StudyRun]) -> tuple[str, ...]:
    """The tasks that could be judged in every finished run: runs are compared on the same ones."""
    finished = [run.tasks for run in results if run.finished]
    if not finished:
        return ()
    return tuple(task for task in finished[0] if all(_is_judged(tasks.get(task)) for tasks in finished))


def mean_ratio(run: StudyRun, tasks: Sequence[str]) -> float | None:
    """The mean ratio over ``tasks``; None if the run has not finished, or without tasks."""
    ratios = [item.ratio for name in tasks if (item := run.tasks.get(name)) is not None and item.ratio is not None]
    return sum(ratios) / len(ratios) if run.finished and ratios else None


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


def baseline_keys(graph: Graph) -> frozenset[ArtifactKey]:
    """The results of its baselines."""
    return frozenset(key for key in done_keys(graph) if key[0].startswith("baseline/"))


def base_key(graph: Graph) -> str | None:
    """The digest of its base model."""
    return graph["base"].digest


def seconds_of(graph: Graph, kinds: Sequence[str]) -> float:
    """Seconds of the processes of its stages of ``kinds``, by their manifests."""
    return sum(node.manifest.seconds for node in graph.nodes if node.kind in kinds and node.manifest is not None)


def _result(
    run: Run, target: Target, baselines: Mapping[str, float | None], failures: Sequence[Failed], *, is_whole: bool
) -> StudyRun:
    graph = target.graph
    if not is_whole or not graph.finished:
        return StudyRun(seed=run.seed, failure="; ".join(_failures(graph, failures)) or NOT_FINISHED)
    training = training_of(graph, target.model.spec.training.batch_rows)
    tasks = {
        name: _outcome(verdict, baselines.get(name), training.rows.get(name, 0))
        for name, verdict in verdicts_of(graph).items()
    }
    return StudyRun(
        seed=run.seed,
        tasks={task.name: tasks[task.name] for task in target.model.spec.tasks if task.name in tasks},
        qualified=sum(item.verdict == "Qualified" for item in tasks.values()),
        rows=sum(training.rows.values()),
        tokens=training.tokens,
        seconds=round(seconds_of(graph, _OF_A_RUN), 3),
        validations=training.validations,
    )


def _outcome(verdict: TaskVerdict, baseline: float | None, rows: int) -> TaskOutcome:
    ratio = verdict.score / baseline if baseline is not None and baseline > 0 else None
    return TaskOutcome(score=verdict.score, baseline=verdict.baseline, ratio=ratio, verdict=verdict.verdict, rows=rows)


def _is_judged(outcome: TaskOutcome | None) -> bool:
    return outcome is not None and outcome.verdict in JUDGED and outcome.ratio is not None


def _failures(graph: Graph, failures: Sequence[Failed]) -> Iterator[str]:
    """Why the run has no result: the stages of its own that failed for good."""
    wanted = {(node.name, node.digest) for node in graph.nodes if node.state is not NodeState.DONE}
    for item in failures:
        if (item.failure.stage, item.digest) in wanted:
            yield f"stage {item.failure.stage} failed: {item.failure.message} (log: {item.log})"


def _of_baseline(graph: Graph, node: Node, batch_rows: int) -> tuple[dict[str, int], int]:
    """Rows by task, and tokens, of the group that a baseline answers."""
    task = graph.groups[node.name.partition("/")[2]][0]
    steps = steps_of_baseline(graph, task) or 0
    result: TrainResult | None = training_result_of(graph[node.stand_in]) if node.stand_in is not None else None
    tokens_a_step = result.tokens / result.steps if result is not None and result.steps else 0.0
    return {task: steps * batch_rows}, round(steps * tokens_a_step)
