"""Training's part of the status: conditions, one row a stage kind, one row a task. Output only. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from multitask_api.resource import MultiTaskModel
from multitask_api.resource.status import StageStatus, TaskStatus
from multitask_api.stage_io.results import ExportResult, TaskVerdict
from multitask_api.stages import Graph, NodeState
from multitask_operator.formatting import duration
from multitask_operator.planner import Failed, StartStage, export_of, verdicts_of
from multitask_operator.reconciler.blockers import WAITING_REASONS, Blocker, with_remediation
from multitask_operator.reconciler.conditions import WARNING, ConditionValue, Outcome, outcome_conditions
from multitask_operator.reconciler.contribution import StatusPart
from multitask_operator.reconciler.state.accessors import created_seconds, started_at
from multitask_operator.reconciler.state.model_state import ModelState
from multitask_operator.reconciler.state.stage_job import StageJob
from multitask_operator.reconciler.training.advice import configuration_warning
from multitask_operator.settings import Settings

TRAINED = "Trained"

#: So long after its creation a model that lacks something is not called stalled.
APPLY_SECONDS = 30.0

_MAX_NAMES = 5
_PROGRESS_LENGTH = 64
_REASON_LENGTH = 256


def training_status(
    state: ModelState,
    settings: Settings,
    starts: Sequence[StartStage],
    blocker: Blocker | None,
    *,
    is_progressing: bool,
) -> StatusPart:
    """What ``kubectl get mtm`` and ``mtm status`` show of training.

    ``starts`` are those of the plan that get a Job now; ``is_progressing``: something is at work in spite of
    ``blocker``. Scores have 4 digits; a figure that is not known is absent.
    """
    graph = state.plan.graph
    at_work = sorted({run.stage for run in state.planner_input.running} | {start.node.name for start in starts})
    verdicts, export = verdicts_of(graph), export_of(graph)
    is_blocked = blocker is not None and not is_progressing
    progressing = _progressing(state, at_work, blocker, export, is_progressing=is_progressing)
    outcome = _outcome(state, blocker, is_progressing=is_progressing)
    conditions = {
        "Ready": _ready(state, blocker, verdicts, export),
        "Consolidated": _consolidated(state.model, verdicts),
        "Progressing": progressing,
        **outcome_conditions(outcome, progressing, export.revision if export else None),
    }
    warning = configuration_warning(state.model.spec, settings)
    if warning is not None:
        conditions[WARNING] = warning
    qualified = sum(verdict.verdict == "Qualified" for verdict in verdicts.values())
    fields = {
        "stage": _stage(state, at_work, is_blocked=is_blocked),
        "progress": f"{_done(graph)}/{len(graph.nodes)} stages",
        "qualified": f"{qualified}/{len(state.model.spec.tasks)}" if verdicts else None,
        "revision": export.revision if export else None,
        "stages": _stage_rows(graph, at_work, state.plan.failed, _progress_by_kind(state.stage_jobs)),
        "tasks": _task_rows(state.model, graph, verdicts, export),
    }
    return StatusPart(conditions, fields)


# -- conditions --------------------------------------------------------------------------------------------------------


def _ready(
    state: ModelState, blocker: Blocker | None, verdicts: Mapping[str, TaskVerdict], export: ExportResult | None
) -> ConditionValue:
    """Names the one thing that keeps the model from being trained. What serves it decides after that."""
    if state.model.spec.suspend and export is None:
        return ConditionValue(
            "False", "Suspended", "spec.suspend is true: its Jobs are stopped; set it to false to go on"
        )
    if blocker is not None:
        return _blocked(blocker)
    if state.plan.failed:
        return _stage_failed(state.plan.failed[0])
    if export is None:
        return ConditionValue("False", "NotTrained", "Training has not ended yet.")
    qualified = sum(verdict.verdict == "Qualified" for verdict in verdicts.values())
    message = f"Result {export.revision} is trained: {qualified}/{len(export.tasks)} tasks qualify."
    return ConditionValue("False", TRAINED, f"{message} No server answers for it yet.")


def _consolidated(model: MultiTaskModel, verdicts: Mapping[str, TaskVerdict]) -> ConditionValue:
    total = len(model.spec.tasks)
    if len(verdicts) < total:
        return ConditionValue("Unknown", "NotJudged", f"{len(verdicts)} of {total} tasks are judged.")
    outside = [name for name, verdict in verdicts.items() if verdict.verdict != "Qualified"]
    text = f"{total - len(outside)}/{total} tasks qualify"
    if outside:
        better = [name for name in outside if verdicts[name].is_surely_better]
        note = (
            f" The shared model is surely at least as good for {_names(better)} and answers there too."
            if better
            else ""
        )
        return ConditionValue("False", "TasksOutsideMixture", f"{text}; not {_names(outside)}.{note}")
    return ConditionValue("True", "AllQualified", f"{text}.")


def _progressing(
    state: ModelState,
    at_work: Sequence[str],
    blocker: Blocker | None,
    export: ExportResult | None,
    *,
    is_progressing: bool,
) -> ConditionValue:
    """Gives the blocker too, unless other work goes on."""
    suspended = ConditionValue("False", "Suspended", "spec.suspend is true; set it to false to go on.")
    if state.model.spec.suspend and export is None:
        return suspended
    if blocker is not None and not is_progressing:
        return _blocked(blocker)
    if is_progressing and not state.planner_input.running and not state.plan.starts:
        return ConditionValue("True", "Resolving", "Looking at data, base model and storage.")
    if state.model.spec.suspend:
        return suspended
    if at_work:
        return ConditionValue("True", "StagesRunning", f"At work: {_names(at_work)}.")
    if state.plan.failed:
        return _stage_failed(state.plan.failed[0])
    if state.plan.graph.finished:
        return ConditionValue("False", "Complete", "Every stage is done.")
    return ConditionValue("Unknown", "Blocked", "Nothing can start: data or the base model is not resolved.")


def _blocked(blocker: Blocker) -> ConditionValue:
    return ConditionValue("False", blocker.reason, with_remediation(blocker.reason, blocker.message))


def _stage_failed(failed: Failed) -> ConditionValue:
    return ConditionValue("False", "StageFailed", f"{failed.failure.stage}: {failed.failure.message}")


def _outcome(state: ModelState, blocker: Blocker | None, *, is_progressing: bool) -> Outcome:
    """Of this generation: what an earlier one reached counts once this one's data has been looked at."""
    if state.is_resolved and state.plan.graph.finished:
        return Outcome.COMPLETE
    if state.model.spec.suspend:
        return Outcome.SUSPENDED
    if is_progressing:
        return Outcome.WORKING
    if blocker is not None:
        return _outcome_of_blocker(state, blocker)
    return Outcome.FAILED if state.plan.failed else Outcome.WORKING


def _outcome_of_blocker(state: ModelState, blocker: Blocker) -> Outcome:
    if blocker.reason == "ResolveFailed":
        return Outcome.FAILED
    # What is applied together with the model, a claim for example, may come a moment later.
    age = state.now - created_seconds(state.cluster.model)
    is_new = age < APPLY_SECONDS
    return Outcome.WORKING if blocker.reason in WAITING_REASONS or is_new else Outcome.STALLED


# -- columns and rows --------------------------------------------------------------------------------------------------


def _stage(state: ModelState, at_work: Sequence[str], *, is_blocked: bool) -> str:
    """The one word of the Stage column."""
    graph = state.plan.graph
    if state.model.spec.suspend and not graph.finished:
        return "Suspended"
    if is_blocked:
        return "Blocked"
    if graph.finished:
        return TRAINED
    if state.plan.failed:
        return "Failed"
    return next((graph[name].kind for name in at_work if name in graph), "Pending")


def _stage_rows(
    graph: Graph, at_work: Sequence[str], failed: Sequence[Failed], progress: Mapping[str, str]
) -> tuple[StageStatus, ...]:
    rows = []
    for kind in dict.fromkeys(node.kind for node in graph.nodes):
        nodes = graph.of_kind(kind)
        names = {node.name for node in nodes}
        running = sum(name in names for name in at_work)
        skipped = [node for node in nodes if node.state is NodeState.SKIPPED]
        rows.append(
            StageStatus(
                name=kind,
                total=len(nodes),
                done=sum(node.state in (NodeState.DONE, NodeState.SKIPPED) for node in nodes),
                skipped=len(skipped),
                skip_reason=skipped[0].reason[:_REASON_LENGTH] if skipped else None,
                running=running,
                failed=sum(item.failure.stage in names for item in failed),
                progress=progress.get(kind) if running else None,
            )
        )
    return tuple(rows)


def _task_rows(
    model: MultiTaskModel, graph: Graph, verdicts: Mapping[str, TaskVerdict], export: ExportResult | None
) -> tuple[TaskStatus, ...]:
    served = {task.task: task for task in export.tasks} if export else {}
    rows = []
    for task in model.spec.tasks:
        verdict = verdicts.get(task.name)
        rows.append(
            TaskStatus(
                name=task.name,
                group=graph.group_of.get(task.name),
                baseline=_rounded(verdict.baseline if verdict else None),
                score=_rounded(verdict.score if verdict else None),
                ratio=_rounded(verdict.ratio if verdict else None),
                verdict=verdict.verdict if verdict else None,
                served_by=served[task.name].served_by if task.name in served else None,
                reason=served[task.name].cause or None if task.name in served else None,
            )
        )
    return tuple(rows)


def _progress_by_kind(stage_jobs: Sequence[StageJob]) -> dict[str, str]:
    return {job.kind: text for job in stage_jobs if (text := _progress(job))}


def _progress(job: StageJob) -> str | None:
    """``1200/4000 loss 0.31, about 3 min left``: of a training Job that has reported progress."""
    progress = job.progress
    if progress is None or not progress.total:
        return None
    text = f"{progress.step}/{progress.total}" + (f" loss {progress.loss:.2f}" if progress.loss is not None else "")
    started = started_at(job.job)
    if progress.step and started is not None and progress.updated > started:
        left = (progress.updated - started) / progress.step * (progress.total - progress.step)
        text += f", about {duration(max(0.0, left))} left"
    if progress.together:
        text += f" (and {len(progress.together)} with it)"
    return text[:_PROGRESS_LENGTH]


def _done(graph: Graph) -> int:
    return sum(node.state in (NodeState.DONE, NodeState.SKIPPED) for node in graph.nodes)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_MAX_NAMES])
    return shown if len(names) <= _MAX_NAMES else f"{shown} and {len(names) - _MAX_NAMES} more"
