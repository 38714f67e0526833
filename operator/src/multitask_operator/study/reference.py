"""The baselines of the reference arm: the scores of all arms are divided by them, in the tasks that they allow. Pure.

Which tasks count follows from these baselines and from the data alone. By the verdicts of the arms it would follow from
what is measured: a task would be left out because of one run in which its ratio is uncertain.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from multitask_api.stage_io.overlap import LEAKED_TEST_ROWS
from multitask_api.stage_io.results import TaskVerdict
from multitask_api.stages import ArtifactKey, Graph
from multitask_operator.formatting import listed
from multitask_operator.planner import training_result_of, verdicts_of
from multitask_operator.study.graphs import StudyGraphs, done_keys
from multitask_operator.study.statistics import rows_needed

_IMPROVING = "BaselineStillImproving"
_CAUSES = {
    "NoBaseline": "it has no baseline",
    "BaselineAtFloor": "its baseline is not surely better than the best constant answer",
    "BaselineNotPositive": "its baseline scores nothing",
    _IMPROVING: "its baseline was still improving when its steps ran out",
    LEAKED_TEST_ROWS: "all of its test rows are in a train split",
}
"""What makes a verdict open whatever the arm scores: the cause, in words."""


@dataclass(frozen=True)
class ReferenceBaseline:
    """``score``: on the test rows, the mean over seeds, or as declared. ``doubt``: why no arm is compared by it, or
    empty; ``advice``: what to do about that."""

    score: float | None
    doubt: str = ""
    advice: str = ""


def reference_baselines(graphs: StudyGraphs) -> dict[str, ReferenceBaseline]:
    """Task → its baseline in the reference arm, of the tasks that any run with the same baseline has judged."""
    reference = graphs.of_runs[0].graph
    verdicts: dict[str, list[TaskVerdict]] = {}
    of_reference: dict[str, TaskVerdict] = {}
    for target in graphs.of_runs:
        for task, verdict in verdicts_of(target.graph).items():
            verdicts.setdefault(task, []).append(verdict)
            if baseline_keys(target.graph, task) == baseline_keys(reference, task):
                of_reference.setdefault(task, verdict)
    leaked = {task for task, each in verdicts.items() if any(item.cause == LEAKED_TEST_ROWS for item in each)}
    most_steps = graphs.of_runs[0].model.spec.stages.baseline.max_steps
    found = {}
    for task, verdict in of_reference.items():
        cause = LEAKED_TEST_ROWS if task in leaked else _cause(verdict, reference)
        advice = _advice(cause, verdict, most_steps)
        found[task] = ReferenceBaseline(verdict.baseline, _CAUSES.get(cause, ""), advice)
    return found


def baseline_keys(graph: Graph, task: str = "") -> frozenset[ArtifactKey]:
    """The results of the baselines of ``task``, by default of all tasks."""
    prefix = f"baseline/{task}/" if task else "baseline/"
    return frozenset(key for key in done_keys(graph) if key[0].startswith(prefix))


def compared_tasks(baselines: Mapping[str, ReferenceBaseline]) -> frozenset[str]:
    """The tasks that count in the mean ratio of every run."""
    return frozenset(task for task, baseline in baselines.items() if not baseline.doubt)


def left_out(baselines: Mapping[str, ReferenceBaseline]) -> list[str]:
    """The tasks that do not count in the mean ratio, by why: a text for each reason."""
    doubts = dict.fromkeys(item.doubt for item in baselines.values() if item.doubt)
    return [
        f"{listed([task for task, item in baselines.items() if item.doubt == doubt], 20)}: {doubt}" for doubt in doubts
    ]


def what_to_do(baselines: Mapping[str, ReferenceBaseline]) -> Iterator[str]:
    """Each task that does not count in the mean ratio, with why and the next step; equal ones together."""
    found: dict[tuple[str, str], list[str]] = {}
    for task, item in baselines.items():
        if item.doubt:
            found.setdefault((item.doubt, item.advice), []).append(task)
    for (doubt, advice), tasks in found.items():
        yield f"left out of the mean ratio of every arm: {listed(tasks, 20)} ({doubt}); {advice}"


def _cause(verdict: TaskVerdict, reference: Graph) -> str:
    """One of `_CAUSES`, or a cause that is no doubt about the baseline."""
    cause = verdict.cause
    # A verdict has this cause only in an arm that does not surely reach the baseline.
    if cause not in _CAUSES and any(_still_improving(reference, verdict.task)):
        cause = _IMPROVING
    elif verdict.baseline is None or verdict.baseline <= 0:
        cause = cause or "BaselineNotPositive"
    return cause


def _advice(cause: str, verdict: TaskVerdict, most_steps: int) -> str:
    """The next step, with the fields of the model that it concerns."""
    better = "train it better (training.learningRate, stages.baseline.maxSteps)"
    if cause == "BaselineAtFloor" and verdict.baseline is not None and verdict.floor is not None:
        scores = f"it scores {verdict.baseline:.3f}, the constant answer {verdict.floor:.3f}"
        rows = rows_needed(verdict.baseline, verdict.floor)
        if rows is None:
            return f"{scores}: {better}, or give the task more training rows"
        # What the normal distribution finds enough was not: other seeds, or another metric than a share of rows.
        count = f"about {rows:,}" if rows > verdict.test_rows else f"more than {verdict.test_rows:,}"
        return f"{scores}: {count} test rows would tell them apart, it has {verdict.test_rows:,}; or {better}"
    return {
        "NoBaseline": "set stages.baseline.enabled to true, or declare one in tasks[].baseline",
        "BaselineAtFloor": f"give it more test rows, or {better}",
        "BaselineNotPositive": f"check its labels and its metric, or {better}",
        _IMPROVING: f"raise stages.baseline.maxSteps, now {most_steps:,}",
        LEAKED_TEST_ROWS: "take test rows that no task is trained on",
    }.get(cause, "")


def _still_improving(reference: Graph, task: str) -> Iterator[bool]:
    for node in reference.of_kind("baseline"):
        trained = training_result_of(node) if node.name.startswith(f"baseline/{task}/") else None
        if trained is not None:
            yield trained.still_improving
