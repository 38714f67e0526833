"""A Job and the ConfigMap that belongs to it: what they say about the stages that they run. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

from pydantic import ValidationError

from multitask_api.cluster import (
    CLEAN_UP,
    DIGEST_ANNOTATION,
    DISRUPTIONS_KEY,
    FAILURE_KEY,
    FINAL_KEY,
    GC,
    OTHER_FAILURES,
    PROGRESS_KEY,
    RESOLVE,
    RESOLVED_BY_ANNOTATION,
    RESTARTS_KEY,
    RUN,
    STAGE_ANNOTATION,
    TRAINING_KINDS,
)
from multitask_api.serving_io.names import SERVING
from multitask_api.serving_io.verify import VERIFY_REVISION
from multitask_api.stage_io.manifest import Manifest, StageFailure, StageProgress
from multitask_api.stage_io.packing import manifest_key, unpack_manifest
from multitask_api.stages import ArtifactKey
from multitask_api.types import JsonObject
from multitask_operator.reconciler.state.accessors import (
    created_at,
    is_being_deleted,
    is_finished,
    job_of,
    kind_label,
    parse_time,
    true_condition,
)
from multitask_operator.reconciler.state.cluster_state import ClusterState
from multitask_operator.reconciler.state.disruptions import Disruptions

NO_STAGES = (RESOLVE, RUN, GC, CLEAN_UP, VERIFY_REVISION)
"""Kinds of children that run no stage of the graph."""
_UNREADABLE = (AttributeError, KeyError, TypeError, ValueError)
"""What a report of a failure raises that somebody edited by hand."""


class Phase(Enum):
    """How far a stage Job has come."""

    DONE = "done"  # every stage of it has reported its manifest
    RUNNING = "running"  # its Job exists and is not finished
    FAILED = "failed"  # its Job is finished, or was before it was removed, and a manifest is missing
    JOB_MISSING = "job missing"  # a ConfigMap without a Job: never started, suspended, or deleted by hand
    CONFIGMAP_MISSING = "configmap missing"  # a Job without its ConfigMap: it has nowhere to report to


@dataclass(frozen=True)
class StageJob:
    """What the cluster shows of one Job: of stages, of ``resolve``, of ``gc`` or of ``clean-up``."""

    name: str
    kind: str
    keys: tuple[ArtifactKey, ...]
    """The stages that it runs, in order."""
    configmap: JsonObject | None = None
    """Holds its orders; its pods report into it."""
    job: JsonObject | None = None
    pods: tuple[JsonObject, ...] = ()

    @cached_property
    def manifests(self) -> dict[ArtifactKey, Manifest]:
        """What its stages have reported. One that cannot be read counts as missing: its pod will report it again."""
        data = (self.configmap or {}).get("binaryData") or {}
        manifests = {}
        for key in self.keys:
            packed = data.get(manifest_key(key[1]))
            manifest = _unpack(packed) if packed else None
            if manifest is not None and (manifest.stage, manifest.digest) == key:
                manifests[key] = manifest
        return manifests

    @property
    def progress(self) -> StageProgress | None:
        """What its pod reported last."""
        try:
            return StageProgress.model_validate_json(self._data[PROGRESS_KEY])
        except (KeyError, ValidationError):
            return None

    @cached_property
    def failure(self) -> tuple[ArtifactKey, StageFailure] | None:
        """The stage that failed in the last attempt, as the trainer reported it; of several the first one."""
        return _reported(self._data.get(FAILURE_KEY))

    @cached_property
    def reported_failures(self) -> dict[ArtifactKey, StageFailure]:
        """All its stages that failed in the last attempt, as the trainer reported it."""
        try:
            first = json.loads(self._data[FAILURE_KEY])
            found = dict(_read_failure(each) for each in (first, *first.get(OTHER_FAILURES, ())))
        except _UNREADABLE:
            return {}
        return {key: failure for key, failure in found.items() if key in self.keys}

    @property
    def final_failure(self) -> tuple[ArtifactKey, StageFailure] | None:
        """Why it failed for good, as the ConfigMap remembers it: the Job may be gone."""
        if self.recorded_failure is not None or self.job is not None:
            return self.recorded_failure
        # Older releases recorded nothing. A user error is final; another one may be of a Job that was stopped.
        reported = self.failure
        return reported if reported is not None and reported[1].kind == "UserError" else None

    @cached_property
    def recorded_failure(self) -> tuple[ArtifactKey, StageFailure] | None:
        """Why it failed for good, as the operator wrote it into its ConfigMap."""
        recorded = _reported(self._data.get(FINAL_KEY))
        return recorded if recorded is not None and (not self.keys or recorded[0] in self.keys) else None

    @cached_property
    def disruptions(self) -> Disruptions:
        """Its pods that were ended from outside: those that its ConfigMap remembers, and those that are seen now."""
        return Disruptions.read(self._data.get(DISRUPTIONS_KEY)).with_pods(self.pods)

    @cached_property
    def restarts(self) -> tuple[str, ...]:
        """The uids of the Jobs of this name that the operator ended to begin another attempt."""
        try:
            uids = json.loads(self._data.get(RESTARTS_KEY, "[]"))
        except ValueError:
            return ()
        return tuple(str(uid) for uid in uids) if isinstance(uids, list) else ()

    @property
    def has_failed(self) -> bool:
        """Whether its Job failed for good, also if that has been removed since."""
        return true_condition(self.job, "Failed") is not None or self.final_failure is not None

    @property
    def phase(self) -> Phase:
        """See `Phase`."""
        if self.configmap is None:
            return Phase.CONFIGMAP_MISSING
        if self.has_reported:
            return Phase.DONE
        if self.final_failure is not None:
            return Phase.FAILED
        if self.job is None:
            return Phase.JOB_MISSING
        return Phase.FAILED if self.is_finished else Phase.RUNNING

    @property
    def open_keys(self) -> tuple[ArtifactKey, ...]:
        """Its stages that have not reported a manifest."""
        return tuple(key for key in self.keys if key not in self.manifests)

    @property
    def failed_together(self) -> bool:
        """Whether it failed, and several of its stages have no result that one process trained together: what made one
        of them fail may be another one.
        """
        is_final = self.phase is Phase.FAILED and not self.report_lost
        return is_final and self.kind in TRAINING_KINDS and len(self.open_keys) > 1

    @property
    def has_reported(self) -> bool:
        """Whether the manifest of every stage is in its ConfigMap."""
        return len(self.manifests) == len(self.keys)

    @property
    def is_finished(self) -> bool:
        """Whether its Job has completed or failed."""
        return is_finished(self.job)

    @property
    def is_open(self) -> bool:
        """Whether its Job exists, is not finished and has not reported everything yet."""
        if self.job is None or self.is_finished:
            return False
        return self.kind in (RESOLVE, GC, CLEAN_UP, VERIFY_REVISION) or not self.has_reported

    @property
    def has_all_pods_running(self) -> bool:
        """Whether as many pods run, or have ended well, as the Job has at once."""
        wanted: int = (self.job or {}).get("spec", {}).get("completions", 1)
        running = [pod for pod in self.pods if pod.get("status", {}).get("phase") in ("Running", "Succeeded")]
        return len(running) >= wanted

    @property
    def is_being_deleted(self) -> bool:
        """Whether its Job is being deleted."""
        return is_being_deleted(self.job)

    @property
    def report_lost(self) -> bool:
        """Whether its Job completed and its report is gone: the results themselves are in storage."""
        return self.phase is Phase.FAILED and true_condition(self.job, "Complete") is not None

    @property
    def resolved_by(self) -> str | None:
        """The resolve Job of the generation that it was created for; None for a Job of an older release."""
        annotations = (self.configmap or self.job or {"metadata": {}})["metadata"].get("annotations") or {}
        name: str | None = annotations.get(RESOLVED_BY_ANNOTATION)
        return name

    @property
    def created_at(self) -> str:
        """When it was created, as the API writes it: a later time is a greater text."""
        item = self.configmap or self.job
        return created_at(item) if item is not None else ""

    def age(self, now: float) -> float:
        """Seconds since its Job was created; 0 without one."""
        return 0.0 if self.job is None else now - parse_time(self.job["metadata"]["creationTimestamp"])

    @property
    def _data(self) -> Mapping[str, str]:
        return (self.configmap or {}).get("data") or {}


def stage_jobs(
    cluster: ClusterState, kinds: Sequence[str] | None = None, *, without: Sequence[str] = ()
) -> tuple[StageJob, ...]:
    """The model's Jobs, of ``kinds`` only or ``without`` some, sorted by name; what serves it belongs to none."""
    configmaps, jobs = _by_name(cluster.configmaps), _by_name(cluster.jobs)
    selected = []
    for name in sorted(configmaps.keys() | jobs.keys()):
        configmap, job = configmaps.get(name), jobs.get(name)
        item = configmap or job or {}
        kind = kind_label(item)
        if kind != SERVING and (kinds is None or kind in kinds) and kind not in without:
            pods = tuple(pod for pod in cluster.pods if job_of(pod) == name)
            selected.append(StageJob(name, kind, tuple(_keys(item)), configmap, job, pods))
    return tuple(selected)


def _keys(item: JsonObject) -> Iterator[ArtifactKey]:
    annotations = item["metadata"].get("annotations") or {}
    stages = annotations.get(STAGE_ANNOTATION, "").split(",")
    digests = annotations.get(DIGEST_ANNOTATION, "").split(",")
    if stages != [""] and len(stages) == len(digests):  # else edited by hand: which stages it runs is not known
        yield from zip(stages, digests, strict=True)


def _reported(text: str | None) -> tuple[ArtifactKey, StageFailure] | None:
    """A failure with the digest of its stage; None without one that can be read."""
    try:
        return _read_failure(json.loads(text or ""))
    except _UNREADABLE:
        return None


def _read_failure(document: JsonObject) -> tuple[ArtifactKey, StageFailure]:
    failure = StageFailure.model_validate({name: document[name] for name in StageFailure.model_fields})
    return (failure.stage, str(document["digest"])), failure


def _by_name(items: Sequence[JsonObject]) -> dict[str, JsonObject]:
    return {item["metadata"]["name"]: item for item in items}


def _unpack(packed: str) -> Manifest | None:
    try:
        return unpack_manifest(packed)
    except ValueError:
        return None
