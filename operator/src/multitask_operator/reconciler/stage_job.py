"""Units: one Job and its ConfigMap, and what they say about the stages they run. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from functools import cached_property
from typing import Any

from pydantic import ValidationError

from multitask_api.cluster import (
    CLEAN_UP,
    DIGEST_ANNOTATION,
    FAILURE_KEY,
    KIND_LABEL,
    PROGRESS_KEY,
    RESOLVE,
    RUN,
    STAGE_ANNOTATION,
)
from multitask_api.stage_io.manifest import Manifest, StageFailure, StageProgress
from multitask_api.stage_io.packing import manifest_key, unpack_manifest
from multitask_api.stages import ArtifactKey
from multitask_operator.reconciler.cluster_state import ClusterState, Object

NO_STAGES = (RESOLVE, RUN, CLEAN_UP)
"""Kinds of children that run no stage of the graph."""


class Phase(Enum):
    """Where a unit is."""

    DONE = "done"  # every stage of it has reported its manifest
    RUNNING = "running"  # its Job is there and has not ended
    FAILED = "failed"  # its Job has ended, and not every manifest is there
    JOB_MISSING = "lost"  # a ConfigMap without a Job: never started, suspended, or deleted by hand
    CONFIGMAP_MISSING = "stray"  # a Job without its ConfigMap: nobody can read what it finds


@dataclass(frozen=True)
class StageJob:
    """What the cluster shows of one unit; ``pods`` are those of its Job."""

    name: str
    kind: str
    keys: tuple[ArtifactKey, ...]
    configmap: Object | None = None
    job: Object | None = None
    pods: tuple[Object, ...] = ()

    @cached_property
    def manifests(self) -> dict[ArtifactKey, Manifest]:
        """What its stages have reported. What cannot be read counts as not reported: its pod will say it again."""
        data = (self.configmap or {}).get("binaryData") or {}
        found = {}
        for key in self.keys:
            packed = data.get(manifest_key(key[1]))
            manifest = _readable(packed) if packed else None
            if manifest is not None and (manifest.stage, manifest.digest) == key:
                found[key] = manifest
        return found

    @property
    def progress(self) -> StageProgress | None:
        """What its pod said last."""
        try:
            return StageProgress.model_validate_json(self._data[PROGRESS_KEY])
        except (KeyError, ValidationError):
            return None

    @property
    def failure(self) -> tuple[ArtifactKey, StageFailure] | None:
        """The stage that failed in its last attempt, in the trainer's own words."""
        try:
            said = json.loads(self._data[FAILURE_KEY])
            digest = said.pop("digest")
            failure = StageFailure.model_validate(said)
        except (KeyError, ValueError):
            return None
        return (failure.stage, digest), failure

    @property
    def phase(self) -> Phase:
        """See `Phase`."""
        if self.configmap is None:
            return Phase.CONFIGMAP_MISSING
        if self.reported:
            return Phase.DONE
        if self.job is None:
            return Phase.JOB_MISSING
        return Phase.FAILED if self.ended else Phase.RUNNING

    @property
    def reported(self) -> bool:
        """Whether everything that it should find stands in its ConfigMap."""
        return len(self.manifests) == len(self.keys)

    @property
    def ended(self) -> bool:
        """Whether its Job is over, well or badly."""
        return condition(self.job, "Complete") is not None or condition(self.job, "Failed") is not None

    @property
    def report_lost(self) -> bool:
        """Whether its Job ended well and what it reported is gone: the results lie in storage."""
        return self.phase is Phase.FAILED and condition(self.job, "Complete") is not None

    @property
    def stopping(self) -> bool:
        """Whether its Job is being deleted."""
        return self.job is not None and "deletionTimestamp" in self.job["metadata"]

    @property
    def created_at(self) -> str:
        """When it was made, as the API writes it: later is greater."""
        stamp: str = (self.configmap or self.job or {}).get("metadata", {}).get("creationTimestamp", "")
        return stamp

    @property
    def _data(self) -> Mapping[str, str]:
        return (self.configmap or {}).get("data") or {}


def stage_jobs(
    raw: ClusterState, kinds: Sequence[str] | None = None, *, without: Sequence[str] = ()
) -> tuple[StageJob, ...]:
    """Every unit of the model, of ``kinds`` only or ``without`` some."""
    configmaps, jobs = _by_name(raw.configmaps), _by_name(raw.jobs)
    found = []
    for name in sorted(configmaps.keys() | jobs.keys()):
        configmap, job = configmaps.get(name), jobs.get(name)
        metadata = (configmap or job or {})["metadata"]
        kind = (metadata.get("labels") or {}).get(KIND_LABEL, "")
        if (kinds is None or kind in kinds) and kind not in without:
            pods = tuple(pod for pod in raw.pods if job_of(pod) == name)
            found.append(StageJob(name, kind, tuple(_keys(metadata)), configmap, job, pods))
    return tuple(found)


def started_at(job: Object | None) -> float | None:
    """When a Job began, in Unix seconds."""
    stamp = (job or {}).get("status", {}).get("startTime")
    return parse_time(stamp) if stamp else None


def parse_time(stamp: str) -> float:
    """A timestamp of the API in Unix seconds."""
    return datetime.fromisoformat(stamp).timestamp()


def condition(item: Object | None, kind: str) -> Mapping[str, Any] | None:
    """The condition of that type if it is true."""
    for found in (item or {}).get("status", {}).get("conditions") or ():
        if found.get("type") == kind and found.get("status") == "True":
            true: Mapping[str, Any] = found
            return true
    return None


def _keys(metadata: Mapping[str, Any]) -> Iterator[ArtifactKey]:
    annotations = metadata.get("annotations") or {}
    stages = annotations.get(STAGE_ANNOTATION, "").split(",")
    digests = annotations.get(DIGEST_ANNOTATION, "").split(",")
    if stages != [""] and len(stages) == len(digests):  # else edited by hand: it answers for nothing
        yield from zip(stages, digests, strict=True)


def _by_name(items: Sequence[Object]) -> dict[str, Object]:
    return {item["metadata"]["name"]: item for item in items}


def job_of(pod: Object) -> str | None:
    """The name of the Job that a pod is of; None for one of anything else."""
    name: str | None = (pod["metadata"].get("labels") or {}).get("batch.kubernetes.io/job-name")
    return name


def node_of(pod: Object) -> str:
    """Which of its Job's nodes a pod is, counted from "0"; of a Job on one, "0" too."""
    index: str = (pod["metadata"].get("annotations") or {}).get("batch.kubernetes.io/job-completion-index", "0")
    return index


def _readable(packed: str) -> Manifest | None:
    try:
        return unpack_manifest(packed)
    except ValueError:
        return None
