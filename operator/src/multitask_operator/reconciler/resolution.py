"""What the resolve unit of a generation found, and when it must look again. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from multitask_api.cluster import MANIFESTS_KEY, RESOLVED_KEY
from multitask_api.stage_io.manifest import Manifest, Resolved
from multitask_api.stage_io.packing import unpack_manifests
from multitask_api.stages import ArtifactKey
from multitask_operator.reconciler.cluster_state import Object
from multitask_operator.reconciler.stage_job import StageJob, condition, parse_time

#: Seconds after which data that could not be found is looked for again.
LOOK_AGAIN = 300.0


@dataclass(frozen=True)
class Resolution:
    """``resolved`` is None until the unit has reported; ``manifests`` are those that storage held then."""

    resolved: Resolved | None = None
    manifests: Mapping[ArtifactKey, Manifest] = field(default_factory=dict)


def resolution(unit: StageJob | None) -> Resolution:
    """What ``unit`` reported; nothing if it has not, or if somebody wrote into its ConfigMap."""
    configmap = unit.configmap if unit else None
    try:
        resolved = Resolved.model_validate(json.loads(_data(configmap, "data")[RESOLVED_KEY]))
        packed = _data(configmap, "binaryData").get(MANIFESTS_KEY)
        manifests = unpack_manifests(packed) if packed else ()
    except (KeyError, ValueError):
        return Resolution()
    return Resolution(resolved, {(item.stage, item.digest): item for item in manifests})


def newest(units: Sequence[StageJob]) -> Resolution:
    """The last generation that was resolved: what the status shows while another is looked at."""
    for unit in sorted(units, key=lambda unit: unit.created_at, reverse=True):
        found = resolution(unit)
        if found.resolved is not None:
            return found
    return Resolution(Resolved(data={}))


def seconds_until_retry(unit: StageJob, resolution: Resolution, now: float) -> float | None:
    """Seconds until ``unit``, if its ``resolution`` found problems, is made again (≤ 0: now); None: never."""
    found = resolution.resolved
    if found is None or not found.problems:
        return None
    ended = condition(unit.job, "Complete")
    since = parse_time(ended["lastTransitionTime"]) if ended else None
    return None if since is None else since + LOOK_AGAIN - now


def _data(configmap: Object | None, key: str) -> Mapping[str, str]:
    return (configmap or {}).get(key) or {}
