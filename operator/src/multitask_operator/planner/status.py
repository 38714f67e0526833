"""The status that goes with a plan: conditions, one row a stage kind, one row a task. Output only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Literal, NamedTuple

from multitask_api.resource import MultiTaskModel
from multitask_api.resource.status import Condition, MultiTaskModelStatus, StageStatus, TaskStatus
from multitask_api.stage_io.results import EvaluateResult, ExportResult, TaskVerdict
from multitask_api.stages import Graph, NodeState, groups
from multitask_operator.formatting import cut
from multitask_operator.planner.state import Failed, Observed, StartStage

#: Of a condition's message: two of them and the rows of 128 tasks have to fit into 48 KiB, in any script.
MESSAGE_BYTES = 1024
_MOST_NAMES = 5


class ConditionValue(NamedTuple):
    """What a condition says."""

    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str


def status(
    model: MultiTaskModel,
    graph: Graph,
    observed: Observed,
    starts: Sequence[StartStage],
    failed: Sequence[Failed],
    now: float,
    *,
    suspended: bool,
    waiting: bool,
    override_conditions: Mapping[str, ConditionValue] = MappingProxyType({}),
) -> MultiTaskModelStatus:
    """Aggregate ``graph`` and what is at work; scores have 4 digits, a figure that is not known is absent.

    ``instead``: condition type → what an executor that sees more than stages says in place of the planner.
    """
    verdicts = verdicts_of(graph)
    export = export_of(graph)
    at_work = sorted({run.stage for run in observed.running} | {start.node.name for start in starts})
    done = sum(node.state in (NodeState.DONE, NodeState.SKIPPED) for node in graph.nodes)
    judgements = {
        "Ready": _ready(export),
        "Consolidated": _consolidated(model, verdicts),
        "Progressing": _progressing(graph, at_work, failed, suspended=suspended, waiting=waiting),
    } | dict(override_conditions)
    qualified = sum(verdict.verdict == "Qualified" for verdict in verdicts.values())
    kinds = [graph[name].kind for name in at_work if name in graph]
    return MultiTaskModelStatus(
        observed_generation=observed.generation,
        conditions=tuple(
            condition(kind, judged, observed.previous, observed.generation, now) for kind, judged in judgements.items()
        ),
        stage=kinds[0] if kinds else None,
        progress=f"{done}/{len(graph.nodes)} stages",
        qualified=f"{qualified}/{len(model.spec.tasks)}" if verdicts else None,
        revision=export.revision if export else None,
        stages=_stage_rows(graph, at_work, failed),
        tasks=_task_rows(model, verdicts, export),
    )


def verdicts_of(graph: Graph) -> dict[str, TaskVerdict]:
    """Task → verdict, of every group that is judged."""
    return {
        verdict.task: verdict
        for node in graph.of_kind("evaluate")
        if node.manifest is not None
        for verdict in EvaluateResult.model_validate(node.manifest.result).tasks
    }


def export_of(graph: Graph) -> ExportResult | None:
    """What the export says, once it is there."""
    manifest = graph["export"].manifest
    return ExportResult.model_validate(manifest.result) if manifest else None


def _ready(export: ExportResult | None) -> ConditionValue:
    if export is None:
        return ConditionValue("False", "NotExported", "No revision is exported yet.")
    lost = [task.task for task in export.tasks if task.served_by is None]
    if lost:
        return ConditionValue("False", "TasksNotRouted", f"Nobody answers {_names(lost)}.")
    if not export.promoted:
        return ConditionValue("False", "NotPromoted", "promote: AllQualified, and not every task qualifies.")
    return ConditionValue(
        "True", "AllTasksServed", f"Revision {export.revision} answers all {len(export.tasks)} tasks."
    )


def _consolidated(model: MultiTaskModel, verdicts: dict[str, TaskVerdict]) -> ConditionValue:
    total = len(model.spec.tasks)
    if len(verdicts) < total:
        return ConditionValue("Unknown", "NotJudged", f"{len(verdicts)} of {total} tasks are judged.")
    out = [name for name, verdict in verdicts.items() if verdict.verdict != "Qualified"]
    text = f"{total - len(out)}/{total} tasks qualify"
    if out:
        return ConditionValue("False", "TasksOutsideMixture", f"{text}; not {_names(out)}.")
    return ConditionValue("True", "AllQualified", f"{text}.")


def _progressing(
    graph: Graph, at_work: Sequence[str], failed: Sequence[Failed], *, suspended: bool, waiting: bool
) -> ConditionValue:
    if suspended:
        return ConditionValue("False", "Suspended", "spec.suspend is true; set it to false to go on.")
    if at_work:
        return ConditionValue("True", "StagesRunning", f"At work: {_names(at_work)}.")
    if waiting:
        return ConditionValue("True", "RetryWaiting", "A stage failed for a passing reason and is tried again soon.")
    if failed:
        first = failed[0].failure
        return ConditionValue("False", "StageFailed", f"{first.stage}: {first.message}")
    if graph.finished:
        return ConditionValue("False", "Complete", "Every stage is done.")
    return ConditionValue("Unknown", "Blocked", "Nothing can start: data or the base model is not resolved.")


def format_time(now: float) -> str:
    """Unix seconds as Kubernetes writes times."""
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def condition(
    kind: str, judged: ConditionValue, previous: MultiTaskModelStatus | None, generation: int | None, now: float
) -> Condition:
    """The condition, with the time since which it has this status; ``now`` in Unix seconds."""
    same = next((item for item in previous.conditions if item.type == kind), None) if previous else None
    since = same.last_transition_time if same is not None and same.status == judged.status else None
    return Condition(
        type=kind,
        status=judged.status,
        reason=judged.reason,
        message=cut(judged.message, MESSAGE_BYTES),
        observed_generation=generation,
        last_transition_time=since or format_time(now),
    )


def _stage_rows(graph: Graph, at_work: Sequence[str], failed: Sequence[Failed]) -> tuple[StageStatus, ...]:
    rows = []
    for kind in dict.fromkeys(node.kind for node in graph.nodes):
        nodes = graph.of_kind(kind)
        names = {node.name for node in nodes}
        rows.append(
            StageStatus(
                name=kind,
                total=len(nodes),
                done=sum(node.state in (NodeState.DONE, NodeState.SKIPPED) for node in nodes),
                running=sum(name in names for name in at_work),
                failed=sum(item.failure.stage in names for item in failed),
            )
        )
    return tuple(rows)


def _task_rows(
    model: MultiTaskModel, verdicts: dict[str, TaskVerdict], export: ExportResult | None
) -> tuple[TaskStatus, ...]:
    group_of = {task: group for group, tasks in groups(model.spec).items() for task in tasks}
    served = {task.task: task.served_by for task in export.tasks} if export else {}
    rows = []
    for task in model.spec.tasks:
        verdict = verdicts.get(task.name)
        rows.append(
            TaskStatus(
                name=task.name,
                group=group_of[task.name],
                baseline=_rounded(verdict.baseline if verdict else None),
                score=_rounded(verdict.score if verdict else None),
                ratio=_rounded(verdict.ratio if verdict else None),
                verdict=verdict.verdict if verdict else None,
                served_by=served.get(task.name),
            )
        )
    return tuple(rows)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_MOST_NAMES])
    return shown if len(names) <= _MOST_NAMES else f"{shown} and {len(names) - _MOST_NAMES} more"
