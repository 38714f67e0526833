"""Jobs that are over and whose pods go on, because another container of the pod does not end. Pure.

A sidecar that an admission webhook injects as an ordinary container keeps the pod running, and with it its GPUs. A
native sidecar (an init container with ``restartPolicy: Always``) ends with the pod. What the Job would do itself if the
pod could end is done here: results count, a wrong input is final, and everything else is tried again as often as a Job
tries it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from multitask_api.cluster import EXIT_ALONE, EXIT_USER_ERROR, RESTARTS_KEY
from multitask_api.stage_io.manifest import StageFailure
from multitask_api.types import JsonObject
from multitask_operator.objects.jobs import RETRIES
from multitask_operator.reconciler.actions import Delete, Event, PatchConfigMap, delete_all
from multitask_operator.reconciler.state.accessors import controller_uid, is_being_deleted
from multitask_operator.reconciler.state.model_state import ModelState
from multitask_operator.reconciler.state.planner_input import failure_of
from multitask_operator.reconciler.state.pods import running_containers, trainer_ended
from multitask_operator.reconciler.state.stage_job import Phase, StageJob
from multitask_operator.reconciler.training.final_failures import remember

#: Seconds that the other containers of a pod have after the stage's own has ended.
HELD_SECONDS = 60.0

_ADVICE = "a native sidecar (an init container with restartPolicy: Always) ends by itself"


@dataclass(frozen=True)
class HeldJob:
    """A Job whose pods run without the stage's container."""

    job: StageJob
    pod: str
    containers: tuple[str, ...]
    exit_code: int
    since: float
    """When the last of the stage's containers ended, in Unix seconds."""

    def seconds_left(self, now: float) -> float:
        """Until it is ended."""
        return self.since + HELD_SECONDS - now

    @property
    def cause(self) -> str:
        """What holds it."""
        return f"container {', '.join(self.containers) or 'another'} of pod {self.pod} still runs"


def held_jobs(state: ModelState) -> list[HeldJob]:
    """Open Jobs whose pods are held, also those whose time is not over yet."""
    jobs = (*state.stage_jobs, *((state.resolve_job,) if state.resolve_job is not None else ()))
    return [held for job in jobs if (held := _held(job)) is not None]


def end_held_jobs(held: Sequence[HeldJob], state: ModelState) -> Iterator[Delete | PatchConfigMap | Event]:
    """Deletes those that have reported, or whose attempt is over and another one may follow, with an Event. That a Job
    failed for good, or that an attempt counts, is remembered first, and the Job is deleted afterwards."""
    for each in held:
        if each.seconds_left(state.now) > 0:
            continue
        job = each.job
        if job.recorded_failure is not None:
            what = "has failed"
        elif _has_reported(job, state):
            what = "has reported its results"
        elif each.exit_code == EXIT_ALONE:
            what = "waited in vain for its other pods and is tried again"  # as often as it takes: it is no failure
        elif _uid(job) in job.restarts:
            what = f"ended with exit code {each.exit_code} and is tried again"
        else:
            yield from _remember_restart(each) if _may_restart(each) else _remember_failure(each, state)
            continue
        yield from delete_all(job.job)
        yield Event(
            "Warning",
            "PodHeld",
            f"Job {job.name} {what}, and {each.cause}: the Job is deleted, which ends it; {_ADVICE}",
        )


def _held(job: StageJob) -> HeldJob | None:
    pods = [pod for pod in job.pods if pod.get("status", {}).get("phase") == "Running" and _is_of(pod, job)]
    ends = [trainer_ended(pod) for pod in pods]
    known = [end for end in ends if end is not None]
    if job.job is None or job.is_finished or job.is_being_deleted or not pods or len(known) < len(pods):
        return None
    code = _exit_code([code for code, _ in known])
    containers = tuple(running_containers(pods[0]))
    return HeldJob(job, pods[0]["metadata"]["name"], containers, code, max(time for _, time in known))


def _has_reported(job: StageJob, state: ModelState) -> bool:
    return state.is_resolved if job is state.resolve_job else job.phase is Phase.DONE


def _is_of(pod: JsonObject, job: StageJob) -> bool:
    """Whether the Job has the pod, and not a former Job of the name: its pods end a moment after it is deleted."""
    return not is_being_deleted(pod) and controller_uid(pod) in (None, _uid(job))


def _exit_code(codes: Sequence[int]) -> int:
    """What the attempt ended with. A wrong input comes before all else, and pods that were alone say least."""
    failed = sorted((code for code in codes if code), key=lambda code: (code != EXIT_USER_ERROR, code == EXIT_ALONE))
    return next(iter(failed), 0)


def _may_restart(held: HeldJob) -> bool:
    """Whether another attempt can help, and the Job would still make one if its pod could end."""
    return held.exit_code != EXIT_USER_ERROR and len(held.job.restarts) < RETRIES


def _remember_restart(held: HeldJob) -> Iterator[PatchConfigMap]:
    if held.job.configmap is not None:
        metadata = held.job.configmap["metadata"]
        restarts = json.dumps([*held.job.restarts, _uid(held.job)])
        yield PatchConfigMap(metadata["name"], metadata["resourceVersion"], {RESTARTS_KEY: restarts})


def _remember_failure(held: HeldJob, state: ModelState) -> Iterator[PatchConfigMap]:
    """Its Job cannot fail while the pod runs: so this attempt was the last one."""
    if held.job.configmap is None:
        return
    failed = failure_of(held.job)
    message = f"{failed.failure.message}; {held.cause}"
    if held.job.failure is None:
        message = f"its program ended with exit code {held.exit_code} and no result; {held.cause}"
    failure = StageFailure(stage=failed.failure.stage, kind=failed.failure.kind, message=message)
    yield remember(held.job, failure, failed.digest, state.now)


def _uid(job: StageJob) -> str:
    return str((job.job or {"metadata": {}})["metadata"].get("uid", ""))
