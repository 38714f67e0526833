"""The names of a MultiTaskModel's children, and the metadata by which they are selected.

Names are DNS labels of at most 63 characters, also with what Kubernetes appends: an Indexed Job's pods are called
``<job>-<index>``. A model's name is shortened where it is too long; a hash of the whole name replaces what is cut
off, so that two models never share a child's name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from multitask_api.cluster import (
    CLEAN_UP,
    GC,
    GENERATION_ANNOTATION,
    KIND_LABEL,
    MANAGED_BY,
    MANAGED_BY_LABEL,
    MODEL_LABEL,
    RESOLVE,
    RUN,
)
from multitask_api.resource.model import API_VERSION
from multitask_api.serving_io.verify import VERIFY_REVISION
from multitask_api.stages.digests import digest
from multitask_api.types import JsonDict, JsonObject

_STAGE_JOB, _RUN, _ACCESS, _VERIFY = 30, 40, 50, 30  # of the model's name, in the names below
_HASH = 6

STAGES = "stages"
"""The Jobs of all kinds that have no access of their own, see `access_name`."""


@dataclass(frozen=True)
class Owner:
    """The MultiTaskModel whose child an object is."""

    namespace: str
    name: str
    uid: str

    @classmethod
    def of(cls, model: JsonObject) -> Owner:
        """From the MultiTaskModel as the API gives it."""
        metadata = model["metadata"]
        return cls(metadata["namespace"], metadata["name"], metadata["uid"])


def stage_job_name(model: str, kind: str, digests: Sequence[str]) -> str:
    """``<model>-<kind>-<digest8>`` of the Job that runs the stages with ``digests``, in any order."""
    if len(digests) == 1:
        return f"{short(model, _STAGE_JOB)}-{kind}-{digests[0][:8]}"
    return f"{short(model, _STAGE_JOB)}-{kind}-{digest(sorted(digests), 8)}"


def resolve_name(owner: Owner, generation: int, refresh: str | None) -> str:
    """The name of the Job that resolves one generation; another one for every value of the refresh annotation."""
    return f"{short(owner.name, _STAGE_JOB)}-{RESOLVE}-{digest([owner.uid, generation, refresh or ''], 8)}"


def clean_up_name(owner: Owner) -> str:
    """The name of a model's clean-up Job: another one for each object, also of the same name."""
    return f"{short(owner.name, _STAGE_JOB)}-{CLEAN_UP}-{digest([owner.uid], 8)}"


def gc_name(owner: Owner, order: str) -> str:
    """The name of the Job that removes what is not used: another one for each value of the annotation."""
    return f"{short(owner.name, _STAGE_JOB)}-{GC}-{digest([owner.uid, order], 8)}"


def run_name(model: str, generation: int) -> str:
    """The name of a generation's run snapshot."""
    return f"{short(model, _RUN)}-{RUN}-{generation}"


def access_name(model: str, kind: str) -> str:
    """The name of the ServiceAccount, Role and RoleBinding of the Jobs of that kind: ``verify`` and ``gc`` have their
    own, all others share that of the stages."""
    if kind == VERIFY_REVISION:
        return f"{short(model, _VERIFY)}-verify"
    return f"{short(model, _ACCESS)}-{GC if kind == GC else STAGES}"


def short(name: str, length: int) -> str:
    """``name``, or one of at most ``length`` characters that begins like it and ends with a hash of it.

    It begins with a letter: a Service's name must.
    """
    if len(name) <= length and name[0].isalpha():
        return name
    head = name if name[0].isalpha() else f"m-{name}"
    return f"{head[: length - _HASH - 1].rstrip('-')}-{digest(name, _HASH)}"


def labels(model: str, kind: str) -> dict[str, str]:
    """The labels of every child of ``model``, by which it is selected."""
    return {MANAGED_BY_LABEL: MANAGED_BY, MODEL_LABEL: model, KIND_LABEL: kind}


def selector(model: str) -> str:
    """Selects the children of ``model``, but nothing to which a user gave only the model's label."""
    return f"{MANAGED_BY_LABEL}={MANAGED_BY},{MODEL_LABEL}={model}"


def object_metadata(
    owner: Owner, api_version: str, kind: str, name: str, *, of: str, annotations: Mapping[str, str] | None = None
) -> JsonDict:
    """apiVersion, kind and metadata of an object that belongs to ``owner``; ``of`` is its kind among our labels.

    The owner reference deletes it with its owner, without blocking the owner's deletion.
    """
    metadata: JsonDict = {"name": name, "namespace": owner.namespace, "labels": labels(owner.name, of)}
    if annotations:
        metadata["annotations"] = dict(annotations)
    metadata["ownerReferences"] = [
        {
            "apiVersion": API_VERSION,
            "kind": "MultiTaskModel",
            "name": owner.name,
            "uid": owner.uid,
            "controller": True,
            "blockOwnerDeletion": False,
        }
    ]
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata}


def generation_annotation(generation: int) -> dict[str, str]:
    """On resolve and run children: the generation they are of."""
    return {GENERATION_ANNOTATION: str(generation)}
