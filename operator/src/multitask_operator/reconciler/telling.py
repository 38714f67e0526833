"""The status of a model in a cluster: the planner's, with what only a cluster knows. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from pydantic import ValidationError

from multitask_api.resource import MultiTaskModel
from multitask_api.resource.status import MultiTaskModelStatus
from multitask_operator.formatting import duration
from multitask_operator.planner import Observed, Plan, StartStage
from multitask_operator.planner.status import Judgement, condition, export_of, status, verdicts_of
from multitask_operator.reconciler.blocking import Blocker
from multitask_operator.reconciler.raw import RawState
from multitask_operator.reconciler.units import Unit, started_at

TRAINED = "Trained"


def model_status(
    model: MultiTaskModel,
    decided: Plan,
    observed: Observed,
    starts: Sequence[StartStage],
    blocker: Blocker | None,
    units: Sequence[Unit],
    now: float,
) -> MultiTaskModelStatus:
    """Everything that ``kubectl get mtm`` and ``mtm status`` show."""
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
        instead=_conditions(decided, blocker, suspended=suspended),
    )
    details = {unit.kind: text for unit in units if (text := _progress(unit))}
    rows = tuple(
        row.model_copy(update={"progress": details[row.name]}) if row.running and row.name in details else row
        for row in found.stages
    )
    return found.model_copy(update={"stages": rows, "stage": _stage(decided, found, blocker, suspended=suspended)})


def refused(raw: RawState, reason: str, message: str, now: float) -> MultiTaskModelStatus:
    """The status of a resource that cannot be read: what it showed before stays, and the conditions say why."""
    before = previous_status(raw) or MultiTaskModelStatus()
    generation = generation_of(raw)
    said = Judgement("False", reason, message[:1024])
    conditions = tuple(condition(kind, said, before, generation, now) for kind in ("Ready", "Progressing"))
    kept = tuple(item for item in before.conditions if item.type not in ("Ready", "Progressing"))
    return before.model_copy(
        update={"observed_generation": generation, "conditions": conditions + kept, "stage": reason, "progress": None}
    )


def stamp(now: float) -> str:
    """Unix seconds as the API writes times."""
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def previous_status(raw: RawState) -> MultiTaskModelStatus | None:
    """The status as it stands; None if there is none or somebody wrote one that is none of ours."""
    try:
        return MultiTaskModelStatus.model_validate((raw.model or {}).get("status") or {})
    except ValidationError:
        return None


def generation_of(raw: RawState) -> int | None:
    """``metadata.generation``."""
    generation: int | None = (raw.model or {}).get("metadata", {}).get("generation")
    return generation


def _conditions(decided: Plan, blocker: Blocker | None, *, suspended: bool) -> Mapping[str, Judgement]:
    """Ready names the one thing that is in the way; Progressing says so too, unless work goes on elsewhere."""
    if blocker is not None:
        said = Judgement("False", blocker.reason, blocker.message[:1024])
        return {"Ready": said} if decided.starts else {"Ready": said, "Progressing": said}
    if decided.failed:
        failure = decided.failed[0].failure
        return {"Ready": Judgement("False", "StageFailed", f"{failure.stage}: {failure.message}"[:1024])}
    export = export_of(decided.graph)
    if export is None:
        return {"Ready": Judgement("False", "NotTrained", "Training has not ended yet.")}
    qualified = sum(verdict.verdict == "Qualified" for verdict in verdicts_of(decided.graph).values())
    text = f"Revision {export.revision} is trained: {qualified}/{len(export.tasks)} tasks qualify."
    return {"Ready": Judgement("False", TRAINED, f"{text} No server answers for it yet.")}


def _stage(decided: Plan, found: MultiTaskModelStatus, blocker: Blocker | None, *, suspended: bool) -> str:
    """The one word of the Stage column."""
    if suspended:
        return "Suspended"
    if decided.graph.finished:
        return TRAINED
    if blocker is not None and not decided.starts:
        return "Blocked"
    return "Failed" if decided.failed else found.stage or "Pending"


def _progress(unit: Unit) -> str | None:
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
