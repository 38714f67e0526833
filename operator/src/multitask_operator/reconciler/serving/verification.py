"""The Jobs that verify revisions: which one is wanted, what they reported, and which are in the way. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from multitask_api.serving_io.names import REVISION_LABEL
from multitask_api.serving_io.revision import Revision
from multitask_api.serving_io.verify import (
    VERIFIED_KEY,
    VERIFY_KEY,
    VERIFY_REVISION,
    PreviousRevision,
    RevisionReport,
    VerifiedTask,
    VerifyOrder,
)
from multitask_operator.objects.serving import verification as objects
from multitask_operator.objects.serving.verification import GOLDEN_ANNOTATION, GatewayAccess
from multitask_operator.reconciler import blockers
from multitask_operator.reconciler.actions import Action, Create, Delete, delete_all
from multitask_operator.reconciler.blockers import Blocker
from multitask_operator.reconciler.children import corrected_binding, find_existing, job_access, pod_settings
from multitask_operator.reconciler.stalls import not_scheduled, seconds_until_not_scheduled
from multitask_operator.reconciler.state.accessors import parse_time, read_record, true_condition
from multitask_operator.reconciler.state.model_state import ModelState
from multitask_operator.reconciler.state.planner_input import failure_of
from multitask_operator.reconciler.state.revision_state import RevisionState
from multitask_operator.reconciler.state.stage_job import StageJob
from multitask_operator.rollout import GoldenJob
from multitask_operator.settings import Settings

#: Seconds after which a verification that failed is tried again.
RETRY_SECONDS = 300.0


def reports_of(state: ModelState, revision: str | None) -> dict[str, RevisionReport]:
    """Key → what the Job of that key reported about ``revision``."""
    found = ((key_of(job), _report(job)) for job in state.verify_jobs if revision_of(job) == revision)
    return {key: report for key, report in found if report is not None}


def failures_of(state: ModelState, revision: str | None) -> dict[str, str]:
    """Key → why the Job of that key failed for good."""
    return {
        key_of(job): failure_of(job).failure.message
        for job in state.verify_jobs
        if revision_of(job) == revision and _failed(job)
    }


def missing_objects(
    state: ModelState, settings: Settings, revisions: Mapping[str, RevisionState], golden: GoldenJob | None
) -> Iterator[Action]:
    """What is missing for the ``golden`` requests that are wanted now; the Job comes last."""
    revision = revisions.get(golden.revision) if golden is not None else None
    if golden is None or revision is None or revision.record is None or not settings.gateway_address:
        yield from corrected_binding(state.owner, state.model.spec, state.cluster, VERIFY_REVISION, state.verify_jobs)
        return
    access = GatewayAccess(settings.gateway_address, settings.gateway_ca)
    record, owner, spec, cluster = revision.record, state.owner, state.model.spec, state.cluster
    known = revisions.get(golden.previous)
    order = _order(state, record, known.record if known is not None else None, golden, access)
    configmap = objects.verify_configmap(owner, order, golden.key, access)
    job = objects.verify_job(
        owner,
        spec,
        record.revision,
        golden.key,
        cluster.generation,
        pod_settings(settings, settings.trainer_image),
        tls=bool(access.ca),
    )
    names = {item.name for item in state.verify_jobs} | {configmap["metadata"]["name"]}
    yield from job_access(owner, spec, cluster, VERIFY_REVISION, names, state.verify_jobs)
    for existing, wanted in ((cluster.configmaps, configmap), (cluster.jobs, job)):
        if find_existing(existing, wanted) is None:
            yield Create(wanted)


def obsolete_verifications(
    state: ModelState, settings: Settings, kept: Collection[str], golden: GoldenJob | None
) -> Iterator[Delete]:
    """Of revisions that are gone; and those that are made again: because they failed some time ago, or with other
    certificates than there are now, or because they ask for more than the ``golden`` requests that are wanted now."""
    for job in state.verify_jobs:
        is_due = seconds_until_retry(job, state.now) <= 0 or _has_other_certificates(job, settings)
        is_retried = (_failed(job) and is_due) or _asks_too_much(job, golden)
        has_lost = job.configmap is None or (job.is_finished and not job.has_failed and _report(job) is None)
        if revision_of(job) not in kept or is_retried or has_lost:
            yield from delete_all(job.job, job.configmap)


def waits(state: ModelState) -> Iterator[float]:
    """Seconds until time alone changes something."""
    for job in state.verify_jobs:
        unscheduled = seconds_until_not_scheduled(job.pods, state.now)
        if job.is_open and unscheduled is not None:
            yield unscheduled
        if _failed(job):
            yield max(1.0, seconds_until_retry(job, state.now))


def seconds_until_retry(job: StageJob, now: float) -> float:
    """Seconds until a verification that failed is tried again."""
    failed = true_condition(job.job, "Failed") or {}
    since = parse_time(failed["lastTransitionTime"]) if "lastTransitionTime" in failed else now - RETRY_SECONDS
    return since + RETRY_SECONDS - now


def verification_blocked(state: ModelState, settings: Settings) -> Blocker | None:
    """Why the pod of a verification does not run."""
    for job in state.verify_jobs:
        blocker = blockers.job_stuck(
            job, settings.gpu_resource, state.cluster.warnings, state.now, settings.grace_seconds
        )
        blocker = blocker or not_scheduled(job.pods, state.now) or blockers.retrying(job)
        if blocker is not None and job.is_open:
            return blocker
    return None


def revision_of(job: StageJob) -> str:
    """The revision that a Job verifies."""
    item = job.configmap or job.job or {"metadata": {}}
    return str((item["metadata"].get("labels") or {}).get(REVISION_LABEL, ""))


def key_of(job: StageJob) -> str:
    """See `GoldenJob.key`."""
    item = job.configmap or job.job or {"metadata": {}}
    return str((item["metadata"].get("annotations") or {}).get(GOLDEN_ANNOTATION, ""))


def _has_other_certificates(job: StageJob, settings: Settings) -> bool:
    if job.configmap is None or not settings.are_known:
        return False
    return bool(objects.certificates_of(job.configmap) != settings.gateway_ca)


def _asks_too_much(job: StageJob, golden: GoldenJob | None) -> bool:
    """Whether an attempt failed, and there are tasks in the order that have gone back to their old revision since: the
    gateways do not let the revision answer them, and every other attempt fails for it too."""
    has_failed_pods = (job.job or {}).get("status", {}).get("failed", 0) > 0
    if golden is None or not has_failed_pods or _report(job) is not None:
        return False
    is_wanted = (revision_of(job), key_of(job)) == (golden.revision, golden.key)
    return is_wanted and not _tasks(job) <= set(golden.tasks)


def _tasks(job: StageJob) -> set[str]:
    order = read_record(job.configmap, VERIFY_KEY, VerifyOrder)
    return {task.name for task in order.tasks} if order is not None else set()


def _failed(job: StageJob) -> bool:
    """Whether it failed for good, and has no report."""
    return job.has_failed and _report(job) is None


def _report(job: StageJob) -> RevisionReport | None:
    return read_record(job.configmap, VERIFIED_KEY, RevisionReport)


def _order(
    state: ModelState, record: Revision, previous: Revision | None, golden: GoldenJob, access: GatewayAccess
) -> VerifyOrder:
    languages = {task.name: task.language for task in state.model.spec.tasks}
    before = {task.name: task for task in previous.tasks} if previous is not None else {}
    tasks = tuple(
        VerifiedTask(
            name=task.name,
            metric=task.metric,
            language=languages.get(task.name, "en"),
            same_contract=task.name in before and before[task.name].contract == task.contract,
            same_rows=previous is not None
            and task.name in record.test_data
            and record.test_data[task.name] == previous.test_data.get(task.name),
        )
        for task in record.tasks
        if task.name in golden.tasks
    )
    return VerifyOrder(
        model=record.model,
        revision=record.revision,
        storage=record.storage,
        artifact=record.artifact,
        tasks=tasks,
        previous=None if previous is None else PreviousRevision(revision=previous.revision, artifact=previous.artifact),
        gateway=access.address,
        token_file=objects.TOKEN_FILE,
        ca_file=objects.CA_FILE if access.ca else None,
    )
