"""Pods that were ended from outside are written down while they are seen: they are removed a moment later. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from multitask_api.cluster import DISRUPTIONS_KEY
from multitask_operator.reconciler.actions import PatchConfigMap
from multitask_operator.reconciler.state.accessors import is_being_deleted
from multitask_operator.reconciler.state.disruptions import Disruptions
from multitask_operator.reconciler.state.model_state import ModelState


def disruptions_to_remember(state: ModelState, deleted: Collection[str]) -> Iterator[PatchConfigMap]:
    """For every open Job whose ConfigMap does not know one of them yet, and is not ``deleted`` (uids)."""
    for job in (*state.resolve_jobs, *state.stage_jobs):
        configmap = job.configmap
        if configmap is None or not job.is_open or is_being_deleted(configmap):
            continue
        metadata = configmap["metadata"]
        remembered = Disruptions.read((configmap.get("data") or {}).get(DISRUPTIONS_KEY))
        if job.disruptions != remembered and metadata["uid"] not in deleted:
            data = {DISRUPTIONS_KEY: job.disruptions.to_text()}
            yield PatchConfigMap(metadata["name"], metadata["resourceVersion"], data)
