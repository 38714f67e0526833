"""What the planner may know of a cluster: the reports of Jobs as resolved data, manifests, runs and failures. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from multitask_api.cluster import MANIFESTS_KEY, REMOVED_KEY, RESOLVED_KEY
from multitask_api.stage_io.manifest import Manifest, Resolved, StageFailure
from multitask_api.stage_io.packing import unpack_manifests
from multitask_api.stages import ArtifactKey
from multitask_api.stages.versions import Versions
from multitask_api.types import JsonObject
from multitask_operator.planner import Failed, PlannerInput, Running
from multitask_operator.planner.plan import MOST_ATTEMPTS
from multitask_operator.reconciler.state.accessors import parse_time, started_at, true_condition
from multitask_operator.reconciler.state.pods import exit_code, out_of_memory
from multitask_operator.reconciler.state.stage_job import Phase, StageJob

#: Seconds after which data that could not be found is looked for again.
RESOLVE_RETRY_SECONDS = 300.0


@dataclass(frozen=True)
class Resolution:
    """The report of a resolve Job."""

    resolved: Resolved | None = None
    """Data, base model and storage; None until it has reported."""
    manifests: Mapping[ArtifactKey, Manifest] = field(default_factory=dict)
    """Those that storage held then, and that nobody had removed since."""


def resolution(stage_job: StageJob | None) -> Resolution:
    """What a resolve Job reported; empty if it has not, or if somebody else wrote into its ConfigMap."""
    configmap = stage_job.configmap if stage_job else None
    try:
        resolved = Resolved.model_validate(json.loads(_entries(configmap, "data")[RESOLVED_KEY]))
        packed = _entries(configmap, "binaryData").get(MANIFESTS_KEY)
        manifests = unpack_manifests(packed) if packed else ()
        removed = set(json.loads(_entries(configmap, "data").get(REMOVED_KEY, "[]")))
    except (KeyError, TypeError, ValueError):
        return Resolution()
    return Resolution(resolved, {(item.stage, item.digest): item for item in manifests if item.digest not in removed})


def latest_resolution(resolve_jobs: Sequence[StageJob]) -> Resolution:
    """The report of the newest resolve Job that has one; without any, no data is known."""
    for stage_job in sorted(resolve_jobs, key=lambda stage_job: stage_job.created_at, reverse=True):
        report = resolution(stage_job)
        if report.resolved is not None:
            return report
    return Resolution(Resolved(data={}))


def seconds_until_retry(stage_job: StageJob, report: Resolution, now: float) -> float | None:
    """Seconds until a resolve Job whose ``report`` names problems is run again (≤ 0: now); None: never."""
    if report.resolved is None or not report.resolved.problems:
        return None
    completed = true_condition(stage_job.job, "Complete")
    return None if completed is None else parse_time(completed["lastTransitionTime"]) + RESOLVE_RETRY_SECONDS - now


def planner_input(stage_jobs: Sequence[StageJob], report: Resolution, versions: Versions) -> PlannerInput:
    """The planner's view. A Job has its own retries, so one that failed has made all its attempts."""
    manifests: dict[ArtifactKey, Manifest] = dict(report.manifests)
    for stage_job in stage_jobs:
        manifests |= stage_job.manifests
    failed = [job for job in stage_jobs if job.phase is Phase.FAILED and not job.report_lost]
    return PlannerInput(
        resolved=report.resolved or Resolved(data={}),
        manifests=manifests,
        versions=versions,
        running=tuple(_running(stage_jobs, manifests)),
        failures=tuple(failure for stage_job in failed for failure in stage_failures(stage_job)),
        serve=False,
    )


def stage_failures(stage_job: StageJob) -> Iterator[Failed]:
    """The stages that failed for good with a Job.

    Of stages that trained together these are the ones whose input the trainer reported as wrong. Any other cause, a
    fault of the program or memory that ran out, may be another stage's: see `scheduling.tried_alone`.
    """
    of_job = failure_of(stage_job)
    if not stage_job.failed_together:
        yield of_job
        return
    for (stage, digest), failure in stage_job.reported_failures.items():
        if failure.kind == "UserError" and (stage, digest) in stage_job.open_keys:
            yield replace(of_job, failure=failure, digest=digest)


def failure_of(stage_job: StageJob) -> Failed:
    """Why a Job ended without every result: the trainer's own report if there is one, else what the cluster says."""
    condition = true_condition(stage_job.job, "Failed") or {}
    if stage_job.recorded_failure is not None:
        key, recorded = stage_job.recorded_failure
        return Failed(recorded, key[1], MOST_ATTEMPTS, 0.0, log=stage_job.name)
    key, failure = _reported_failure(stage_job)
    memory = out_of_memory(stage_job.pods)
    if memory:
        failure = StageFailure(stage=key[0], kind="UserError", message=memory)
    elif failure is None:
        # The stage's program reported nothing: it was killed, or never began.
        why = exit_code(stage_job.pods) or condition.get("message") or "its Job ended without a result"
        failure = StageFailure(
            stage=key[0], kind="Fault", message=f"{why}; `mtm logs NAME {key[0]}` shows what it printed"
        )
    when = parse_time(condition["lastTransitionTime"]) if "lastTransitionTime" in condition else 0.0
    return Failed(failure, key[1], MOST_ATTEMPTS, when, log=stage_job.name)


def _reported_failure(stage_job: StageJob) -> tuple[ArtifactKey, StageFailure | None]:
    """The stage at fault, and the trainer's report; a report without a digest is about the Job as a whole."""
    if stage_job.failure is None:
        return _first_open(stage_job), None
    key, failure = stage_job.failure
    if key in stage_job.keys:
        return key, failure
    is_about_the_job = key[1] == ""
    key = _first_open(stage_job)
    return key, failure.model_copy(update={"stage": key[0]}) if is_about_the_job else None


def _running(stage_jobs: Sequence[StageJob], manifests: Mapping[ArtifactKey, Manifest]) -> Iterator[Running]:
    for stage_job in stage_jobs:
        if stage_job.phase is Phase.RUNNING:
            for stage, digest in stage_job.open_keys:
                if (stage, digest) not in manifests:
                    yield Running(stage, digest, started_at(stage_job.job) or 0.0, stage_job.is_being_deleted)


def _first_open(stage_job: StageJob) -> ArtifactKey:
    """The first stage that has not reported: it was at work, since a Job runs its stages in order."""
    return next(iter(stage_job.open_keys), (stage_job.kind, ""))


def _entries(configmap: JsonObject | None, field_name: str) -> Mapping[str, str]:
    return (configmap or {}).get(field_name) or {}
