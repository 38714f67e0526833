"""The status of a model in a cluster: the planner's, with what only a cluster knows. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from multitask_api.resource import MultiTaskModel
from multitask_api.resource.status import MultiTaskModelStatus
from multitask_operator.formatting import duration
from multitask_operator.planner import Observed, Plan, StartStage
from multitask_operator.planner.status import ConditionValue, condition, export_of, status, verdicts_of
from multitask_operator.reconciler.blockers import Blocker
from multitask_operator.reconciler.cluster_state import ClusterState
from multitask_operator.reconciler.remediation import with_remediation_for
from multitask_operator.reconciler.stage_job import StageJob, started_at

TRAINED = "Trained"


def model_status(
    model: MultiTaskModel,
    decided: Plan,
    observed: Observed,
    starts: Sequence[StartStage],
    blocker: Blocker | None,
    units: Sequence[StageJob],
    now: float,
    *,
    is_progressing: bool,
) -> MultiTaskModelStatus:
    """Everything that ``kubectl get mtm`` and ``mtm status`` show; ``going_on``: something is at work all the same."""
    suspended = model.spec.suspend
    found = status(
        model,
        decided.graph,
        observed,
        starts,
        decided.failed,
        now,
        suspended=suspended,
        waiting=False,
        override_conditions=_conditions(decided, observed, blocker, is_progressing=is_progressing, suspended=suspended),
    )
    details = {unit.kind: text for unit in units if (text := _progress(unit))}
    rows = tuple(
        row.model_copy(update={"progress": details[row.name]}) if row.running and row.name in details else row
        for row in found.stages
    )
    stage = _stage(decided, found, suspended=suspended, blocked=blocker is not None and not is_progressing)
    return found.model_copy(update={"stages": rows, "stage": stage})


def rejected(raw: ClusterState, reason: str, message: str, now: float) -> MultiTaskModelStatus:
    """The status of a resource that cannot be read: what it showed before stays, and the conditions say why."""
    said = ConditionValue("False", reason, message)
    return override_conditions(raw, said, said, reason, None, now)


def override_conditions(
    raw: ClusterState, ready: ConditionValue, progressing: ConditionValue, stage: str, progress: str | None, now: float
) -> MultiTaskModelStatus:
    """What the status showed before, with other conditions."""
    before = raw.previous_status or MultiTaskModelStatus()
    generation = raw.generation
    said = {"Ready": ready, "Progressing": progressing}
    conditions = tuple(condition(kind, judged, before, generation, now) for kind, judged in said.items())
    kept = tuple(item for item in before.conditions if item.type not in said)
    shown = {"observed_generation": generation, "conditions": conditions + kept, "stage": stage, "progress": progress}
    return before.model_copy(update=shown)


def _conditions(
    decided: Plan, observed: Observed, blocker: Blocker | None, *, is_progressing: bool, suspended: bool
) -> Mapping[str, ConditionValue]:
    """Ready names the one thing that is in the way; Progressing says so too, unless work goes on elsewhere."""
    looking = {}
    if is_progressing and not observed.running and not decided.starts:
        looking["Progressing"] = ConditionValue("True", "Resolving", "Looking at data, base model and storage.")
    export = export_of(decided.graph)
    if suspended and export is None:
        stopped = "spec.suspend is true: its Jobs are stopped; set it to false to go on"
        return {"Ready": ConditionValue("False", "Suspended", stopped)}
    if blocker is not None:
        said = ConditionValue("False", blocker.reason, with_remediation_for(blocker.reason, blocker.message))
        return {"Ready": said} | (looking if is_progressing else {"Progressing": said})
    if decided.failed:
        failure = decided.failed[0].failure
        return {"Ready": ConditionValue("False", "StageFailed", f"{failure.stage}: {failure.message}")} | looking
    if export is None:
        return {"Ready": ConditionValue("False", "NotTrained", "Training has not ended yet.")} | looking
    qualified = sum(verdict.verdict == "Qualified" for verdict in verdicts_of(decided.graph).values())
    text = f"Revision {export.revision} is trained: {qualified}/{len(export.tasks)} tasks qualify."
    return {"Ready": ConditionValue("False", TRAINED, f"{text} No server answers for it yet.")} | looking


def _stage(decided: Plan, found: MultiTaskModelStatus, *, suspended: bool, blocked: bool) -> str:
    """The one word of the Stage column."""
    if suspended and not decided.graph.finished:
        return "Suspended"
    if blocked:
        return "Blocked"
    if decided.graph.finished:
        return TRAINED
    return "Failed" if decided.failed else found.stage or "Pending"


def _progress(unit: StageJob) -> str | None:
    """``1200/4000 loss 0.31, about 3 min left``: of a training Job that has said where it is."""
    said = unit.progress
    if said is None or not said.total:
        return None
    text = f"{said.step}/{said.total}" + (f" loss {said.loss:.2f}" if said.loss is not None else "")
    started = started_at(unit.job)
    if said.step and started is not None and said.updated > started:
        left = (said.updated - started) / said.step * (said.total - said.step)
        text += f", about {duration(max(0.0, left))} left"
    return text[:64]
