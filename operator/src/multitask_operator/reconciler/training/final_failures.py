"""What failed for good is remembered in the ConfigMap of its Job, because the Job is removed after a day. Pure.

Otherwise it would be created again every day, and fail every day. An edit and the refresh annotation delete the
ConfigMap, and with it the memory (`obsolete`).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator

from multitask_api.cluster import FINAL_KEY
from multitask_api.stage_io.manifest import StageFailure
from multitask_operator.reconciler.actions import PatchConfigMap
from multitask_operator.reconciler.state.accessors import format_time, is_being_deleted, true_condition
from multitask_operator.reconciler.state.model_state import ModelState
from multitask_operator.reconciler.state.planner_input import failure_of
from multitask_operator.reconciler.state.stage_job import Phase, StageJob


def failures_to_remember(state: ModelState, deleted: Collection[str]) -> Iterator[PatchConfigMap]:
    """For every Job that has failed for good and is not ``deleted`` (uids) by this decision to be run again."""
    for job in (*state.stage_jobs, *([] if state.is_resolved else state.resolve_jobs)):
        configmap = job.configmap
        if configmap is None or job.job is None or job.recorded_failure is not None or is_being_deleted(configmap):
            continue
        is_done = bool(job.keys) and job.phase is Phase.DONE
        has_failed = true_condition(job.job, "Failed") is not None and not is_done
        if has_failed and configmap["metadata"]["uid"] not in deleted:
            failed = failure_of(job)
            yield remember(job, failed.failure, failed.digest, state.now)


def remember(job: StageJob, failure: StageFailure, digest: str, now: float) -> PatchConfigMap:
    """Writes into the ConfigMap of ``job`` that its stage with ``digest`` failed for good."""
    document = failure.to_json() | {"digest": digest, "time": format_time(now)}
    metadata = (job.configmap or {})["metadata"]
    return PatchConfigMap(
        metadata["name"], metadata["resourceVersion"], {FINAL_KEY: json.dumps(document, ensure_ascii=False)}
    )
