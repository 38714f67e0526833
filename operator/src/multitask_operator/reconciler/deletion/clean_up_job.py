"""The Job that removes what a model's runs have written: what it takes to create it, and its result. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import product

from multitask_api.cluster import CLEAN_UP, CLEAN_UP_RESULT_KEY, RUN, SNAPSHOT_KEY, CleanUpResult
from multitask_api.errors import UserError
from multitask_api.resource import MultiTaskModel, MultiTaskModelSpec
from multitask_operator.formatting import cut, size
from multitask_operator.objects.names import Owner, clean_up_name
from multitask_operator.objects.stage_jobs import StageJobSpec
from multitask_operator.objects.volumes import uri_problems
from multitask_operator.reconciler.actions import Action, Event
from multitask_operator.reconciler.children import ChildBuilder, pod_settings
from multitask_operator.reconciler.state.accessors import created_at, kind_label, read_record, true_condition
from multitask_operator.reconciler.state.cluster_state import ClusterState
from multitask_operator.reconciler.state.model_reader import read_model
from multitask_operator.reconciler.state.pods import out_of_memory
from multitask_operator.reconciler.state.stage_job import StageJob, stage_jobs
from multitask_operator.settings import PodDefaults, Settings

FAILED, CLEANED = "CleanUpFailed", "CleanedUp"

_FAILURE_BYTES = 600
"""Of an Event, which also says what stays where."""


def clean_up_job(cluster: ClusterState) -> StageJob | None:
    """The clean-up of this very object: that of a former model of the name may still exist, with its result."""
    name = clean_up_name(Owner.of(cluster.model))
    return next((job for job in stage_jobs(cluster, (CLEAN_UP,)) if job.name == name), None)


def clean_up_creations(cluster: ClusterState, settings: Settings) -> tuple[Action, ...] | None:
    """What is missing of the Job and its access. None: neither the spec nor one of an earlier run can be used."""
    owner, generation = Owner.of(cluster.model), cluster.generation
    stage_job = StageJobSpec.of_clean_up(owner, generation)
    # The current image, also for runs of older ones: an old image may not know how to clean up.
    pods = pod_settings(settings, settings.trainer_image)
    # A deletion must not wait for an installation whose additions do not fit: then it goes without them.
    for model, each in product(_usable_models(cluster), (pods, replace(pods, defaults=PodDefaults()))):
        children = ChildBuilder(owner, generation, model, each)
        with suppress(UserError):
            return (*children.access(cluster, {stage_job.name}), *children.stage_job(cluster, stage_job))
    return None


def clean_up_event(job: StageJob, uri: str) -> Event | None:
    """The Event about a clean-up that has ended; None while it goes on. ``uri`` is the model's storage."""
    result = _result(job)
    if result is not None:
        removed = f"{result.results} results, {result.files} files with {size(result.bytes)}"
        left = f" {result.left} files among them are not its own and stay." if result.left else ""
        return Event("Normal", CLEANED, f"Removed at {uri}: {removed}.{left}")
    if true_condition(job.job, "Failed") is not None:
        text = f"{_failure(job)}. What its runs wrote at {uri} is not all removed; remove it by hand."
        return Event("Warning", FAILED, text)
    if true_condition(job.job, "Complete") is not None:  # it completed, and its report was lost
        return Event("Normal", CLEANED, f"Removed what its runs wrote at {uri}.")
    return None


def _usable_models(cluster: ClusterState) -> Iterator[MultiTaskModel]:
    """The model, if its spec can be carried out; then the models of earlier runs."""
    with suppress(UserError):
        model = read_model(cluster)
        if not uri_problems(model.spec):
            yield model
    metadata = {"name": cluster.name, "namespace": cluster.namespace}
    for spec in _snapshot_specs(cluster):
        yield MultiTaskModel.model_validate({"metadata": metadata, "spec": spec})


def _snapshot_specs(cluster: ClusterState) -> Iterator[MultiTaskModelSpec]:
    """The specs in the runs' snapshots, newest first; a snapshot that was edited by hand is skipped."""
    snapshots = [item for item in cluster.configmaps if kind_label(item) == RUN]
    for item in sorted(snapshots, key=created_at, reverse=True):
        with suppress(KeyError, TypeError, ValueError):
            yield MultiTaskModelSpec.model_validate(json.loads(item["data"][SNAPSHOT_KEY])["spec"])


def _failure(job: StageJob) -> str:
    """As the trainer reported it, else as the cluster says."""
    condition = true_condition(job.job, "Failed") or {}
    reported = job.failure[1].message if job.failure is not None else None
    message = reported or condition.get("message") or "the clean-up's Job failed"
    return cut(out_of_memory(job.pods) or str(message), _FAILURE_BYTES)


def _result(job: StageJob) -> CleanUpResult | None:
    return read_record(job.configmap, CLEAN_UP_RESULT_KEY, CleanUpResult)
