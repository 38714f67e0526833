"""Jobs that are over and whose pods go on, because another container of the pod does not end. Pure.

A sidecar that an admission webhook injects as an ordinary container keeps the pod running, and with it its GPUs. A
native sidecar (an init container with ``restartPolicy: Always``) ends with the pod.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from multitask_api.stage_io.manifest import StageFailure
from multitask_operator.reconciler.actions import Delete, Event, PatchConfigMap, delete_all
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
    """Deletes those that have reported, with an Event. What failed is remembered first, and deleted afterwards."""
    for each in held:
        if each.seconds_left(state.now) > 0:
            continue
        job = each.job
        if job.recorded_failure is None and not _has_reported(job, state):
            yield from _remember(each, state)
            continue
        yield from delete_all(job.job)
        what = "has failed" if job.recorded_failure is not None else "has reported its results"
        yield Event(
            "Warning",
            "PodHeld",
            f"Job {job.name} {what}, and {each.cause}: the Job is deleted, which ends it; {_ADVICE}",
        )


def _held(job: StageJob) -> HeldJob | None:
    pods = [pod for pod in job.pods if pod.get("status", {}).get("phase") == "Running"]
    ends = [trainer_ended(pod) for pod in pods]
    known = [end for end in ends if end is not None]
    if job.job is None or job.is_finished or job.is_being_deleted or not pods or len(known) < len(pods):
        return None
    code = next((code for code, _ in known if code), 0)
    containers = tuple(running_containers(pods[0]))
    return HeldJob(job, pods[0]["metadata"]["name"], containers, code, max(time for _, time in known))


def _has_reported(job: StageJob, state: ModelState) -> bool:
    return state.is_resolved if job is state.resolve_job else job.phase is Phase.DONE


def _remember(held: HeldJob, state: ModelState) -> Iterator[PatchConfigMap]:
    """Its Job cannot fail while the pod runs: so this attempt was the last one."""
    if held.job.configmap is None:
        return
    failed = failure_of(held.job)
    message = f"{failed.failure.message}; {held.cause}, so that the Job cannot try again: {_ADVICE}"
    if held.job.failure is None:
        message = f"its program ended with exit code {held.exit_code} and no result; {held.cause}"
    failure = StageFailure(stage=failed.failure.stage, kind=failed.failure.kind, message=message)
    yield remember(held.job, failure, failed.digest, state.now)
