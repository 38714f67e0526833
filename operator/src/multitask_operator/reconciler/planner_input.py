"""What the planner may know of a cluster: units turned into manifests, runs and failures. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from multitask_api.resource.status import MultiTaskModelStatus
from multitask_api.stage_io.manifest import Manifest, StageFailure
from multitask_api.stages import ArtifactKey
from multitask_operator.planner import Failed, Observed, Running
from multitask_operator.planner.plan import MOST_ATTEMPTS
from multitask_operator.reconciler.resolution import Resolution
from multitask_operator.reconciler.retries import exit_code, out_of_memory
from multitask_operator.reconciler.stage_job import Phase, StageJob, condition, parse_time, started_at


def observed(
    units: Sequence[StageJob],
    resolution: Resolution,
    *,
    generation: int | None,
    previous: MultiTaskModelStatus | None,
) -> Observed:
    """The planner's view. A Job has its own retries, so one that failed has made all its attempts."""
    manifests: dict[ArtifactKey, Manifest] = dict(resolution.manifests)
    for unit in units:
        manifests |= unit.manifests
    assert resolution.resolved is not None
    return Observed(
        resolved=resolution.resolved,
        manifests=manifests,
        running=tuple(_running(units, manifests)),
        failures=tuple(failed(unit) for unit in units if unit.phase is Phase.FAILED and not unit.report_lost),
        serve=False,
        generation=generation,
        previous=previous,
    )


def failed(unit: StageJob) -> Failed:
    """Why a Job ended without every result: the trainer's words if it had any, else what the cluster says."""
    ended = condition(unit.job, "Failed") or {}
    key, failure = _said(unit)
    memory = out_of_memory(unit.pods)
    if memory:
        failure = StageFailure(stage=key[0], kind="UserError", message=memory)
    elif failure is None:
        why = exit_code(unit.pods) or ended.get("message") or "its Job ended without a result"
        # The stage's program said nothing: it was killed, or never began.
        failure = StageFailure(
            stage=key[0], kind="Fault", message=f"{why}; `mtm logs NAME {key[0]}` shows what it printed"
        )
    when = parse_time(ended["lastTransitionTime"]) if "lastTransitionTime" in ended else 0.0
    return Failed(failure, key[1], MOST_ATTEMPTS, when, log=unit.name)


def _said(unit: StageJob) -> tuple[ArtifactKey, StageFailure | None]:
    """The stage at fault, and the trainer's words; those without a digest are about the unit as a whole."""
    if unit.failure is None:
        return _open(unit), None
    key, failure = unit.failure
    if key in unit.keys:
        return key, failure
    key = _open(unit)
    return key, failure.model_copy(update={"stage": key[0]}) if unit.failure[0][1] == "" else None


def _running(units: Sequence[StageJob], manifests: Mapping[ArtifactKey, Manifest]) -> Iterator[Running]:
    for unit in units:
        if unit.phase is Phase.RUNNING:
            for stage, digest in unit.keys:
                if (stage, digest) not in manifests:
                    yield Running(stage, digest, started_at(unit.job) or 0.0, unit.stopping)


def _open(unit: StageJob) -> ArtifactKey:
    """The first stage that has not reported: the one that was at work, since a unit goes through them in order."""
    reported = unit.manifests
    return next((key for key in unit.keys if key not in reported), (unit.kind, ""))
