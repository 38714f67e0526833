"""The release that a run belongs to: a run goes on with the image and the stage versions that it began with. Pure.

Otherwise an upgrade of the operator would change every digest, and with it make every model untrained. A newer release
is adopted by what asks for a new run: an edit that changes what is computed, or a new value of the refresh annotation.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from multitask_api.cluster import REFRESH_ANNOTATION, RUN, SNAPSHOT_KEY
from multitask_api.resource import MultiTaskModelSpec
from multitask_api.stages.changes import trains_the_same
from multitask_api.stages.versions import UNRECORDED_VERSIONS, VERSIONS, Versions, with_newer_kinds
from multitask_api.types import JsonObject
from multitask_operator.objects.names import Owner, resolve_name
from multitask_operator.reconciler.state.accessors import kind_label
from multitask_operator.reconciler.state.cluster_state import ClusterState


@dataclass(frozen=True)
class RunRecord:
    """What the snapshot of a run has, or will have once its first Job is created."""

    versions: Versions
    refresh: str | None
    """The value of the refresh annotation that asked for the run."""
    image: str | None = None
    """The trainer image; None: that of the operator's settings."""
    is_recorded: bool = False
    """Whether the snapshot of the model's generation has exactly this."""
    spec: MultiTaskModelSpec | None = None
    """The recorded spec of this generation, with the defaults of the release that began it; None: not recorded."""

    @property
    def is_of_this_release(self) -> bool:
        """Whether a new run would have the same stage versions."""
        return self.versions == VERSIONS


@dataclass(frozen=True)
class _Snapshot:
    generation: int
    spec: MultiTaskModelSpec
    image: str
    versions: Versions
    refresh: str | None
    knows_refresh: bool
    """Older releases recorded neither versions nor ``refresh``."""


def run_record(cluster: ClusterState, owner: Owner, spec: MultiTaskModelSpec) -> RunRecord:
    """The run that ``spec`` goes on with: the recorded one if it trains the same, else a new one of this release."""
    refresh = cluster.annotations.get(REFRESH_ANNOTATION)
    # The generations before this one are needed until this one has a snapshot of its own.
    snapshot = max(_snapshots(cluster), key=lambda each: each.generation, default=None)
    if snapshot is None or _asks_for_a_new_run(refresh, snapshot, cluster, owner):
        return RunRecord(VERSIONS, refresh)
    if snapshot.generation == cluster.generation and _texts(snapshot.spec) == _texts(spec):
        return RunRecord(snapshot.versions, refresh, snapshot.image, is_recorded=True, spec=snapshot.spec)
    if trains_the_same(snapshot.spec, spec):
        return RunRecord(snapshot.versions, refresh, snapshot.image)
    return RunRecord(VERSIONS, refresh)


def _texts(spec: MultiTaskModelSpec) -> list[tuple[object, ...]]:
    """What can change without a new generation, because ConfigMaps hold it."""
    return [(task.name, task.prompt, task.labels) for task in spec.tasks]


def _asks_for_a_new_run(refresh: str | None, snapshot: _Snapshot, cluster: ClusterState, owner: Owner) -> bool:
    """Whether the annotation has another value than when the run began; to remove it asks for nothing."""
    if refresh is None:
        return False
    if snapshot.knows_refresh:
        return refresh != snapshot.refresh
    looked = resolve_name(owner, snapshot.generation, refresh)
    return not any(item["metadata"]["name"] == looked for item in cluster.configmaps)


def _snapshots(cluster: ClusterState) -> Iterator[_Snapshot]:
    for item in cluster.configmaps:
        if kind_label(item) == RUN:
            try:
                snapshot = _read(json.loads(item["data"][SNAPSHOT_KEY]))
            except (KeyError, TypeError, ValueError):  # edited by hand: it records nothing
                continue
            if snapshot.generation <= cluster.generation:  # a later one is of a former object of the name
                yield snapshot


def _read(document: JsonObject) -> _Snapshot:
    image, versions = document["trainerImage"], document.get("versions", UNRECORDED_VERSIONS)
    if not isinstance(image, str) or not isinstance(versions, Mapping) or versions.keys() < UNRECORDED_VERSIONS.keys():
        raise ValueError("no snapshot of a run")
    return _Snapshot(
        generation=int(document["generation"]),
        spec=MultiTaskModelSpec.model_validate(document["spec"]),
        image=image,
        versions=with_newer_kinds({kind: int(version) for kind, version in versions.items()}),
        refresh=document.get("refresh"),
        knows_refresh="versions" in document,
    )
