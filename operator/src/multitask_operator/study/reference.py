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
from multitask_operator.planner import training_result_of, verdicts_of
from multitask_operator.study.graphs import StudyGraphs, done_keys

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
    empty."""

    score: float | None
    doubt: str = ""


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
    found = {}
    for task, verdict in of_reference.items():
        doubt = _CAUSES[LEAKED_TEST_ROWS] if task in leaked else _doubt(verdict, reference)
        found[task] = ReferenceBaseline(verdict.baseline, doubt)
    return found


def baseline_keys(graph: Graph, task: str = "") -> frozenset[ArtifactKey]:
    """The results of the baselines of ``task``, by default of all tasks."""
    prefix = f"baseline/{task}/" if task else "baseline/"
    return frozenset(key for key in done_keys(graph) if key[0].startswith(prefix))


def compared_tasks(baselines: Mapping[str, ReferenceBaseline]) -> frozenset[str]:
    """The tasks that count in the mean ratio of every run."""
    return frozenset(task for task, baseline in baselines.items() if not baseline.doubt)


def _doubt(verdict: TaskVerdict, reference: Graph) -> str:
    cause = verdict.cause
    # A verdict has this cause only in an arm that does not surely reach the baseline.
    if cause not in _CAUSES and any(_still_improving(reference, verdict.task)):
        cause = _IMPROVING
    elif verdict.baseline is None or verdict.baseline <= 0:
        cause = cause or "BaselineNotPositive"
    return _CAUSES.get(cause, "")


def _still_improving(reference: Graph, task: str) -> Iterator[bool]:
    for node in reference.of_kind("baseline"):
        trained = training_result_of(node) if node.name.startswith(f"baseline/{task}/") else None
        if trained is not None:
            yield trained.still_improving
