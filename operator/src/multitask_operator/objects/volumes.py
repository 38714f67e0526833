"""Where addresses of a spec lie in a pod: the claims to mount, and ``spec.storage`` as a pod sees it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from multitask_api.cluster import RESOLVE, WORK_PATH, pvc_path
from multitask_api.errors import Problem
from multitask_api.resource import MultiTaskModelSpec
from multitask_api.stages.digests import digest
from multitask_api.uris import scheme_of

Map = dict[str, Any]

_DATA_KINDS = frozenset({RESOLVE, "prepare"})
_BASE_KINDS = frozenset({RESOLVE, "base"})


def pvc_names(spec: MultiTaskModelSpec, kind: str | None = None) -> tuple[str, ...]:
    """The claims that a pod of ``kind`` mounts (None: any pod of the model), sorted.

    Storage is mounted by all; data by what reads it, the base model and its corpus by what makes the base: a claim that
    only one node may mount then binds as few pods as can be.
    """
    found = {claim for address in _addresses(spec, kind) if (claim := pvc_of(address)) is not None}
    return tuple(sorted(found))


def pvc_of(address: str) -> str | None:
    """The claim of a ``pvc://CLAIM/PATH`` address; None for any other."""
    return _split(address)[0] if scheme_of(address) == "pvc" else None


def pod_volumes(spec: MultiTaskModelSpec, kind: str) -> list[Map]:
    """The volumes of the claims that a pod of ``kind`` mounts."""
    return [
        {"name": volume_name(claim), "persistentVolumeClaim": {"claimName": claim}} for claim in pvc_names(spec, kind)
    ]


def volume_mounts(spec: MultiTaskModelSpec, kind: str) -> list[Map]:
    """Their mounts; only storage is written to."""
    stored = pvc_of(_storage(spec))
    return [
        {"name": volume_name(claim), "mountPath": pvc_path(claim), **({} if claim == stored else {"readOnly": True})}
        for claim in pvc_names(spec, kind)
    ]


def mounts_variable(spec: MultiTaskModelSpec, kind: str) -> str:
    """The value of ``MULTITASK_MOUNTS`` in a pod of ``kind``: JSON, claim → path."""
    return json.dumps({claim: pvc_path(claim) for claim in pvc_names(spec, kind)}, separators=(",", ":"))


def volume_name(claim: str) -> str:
    """The name of a claim's volume, a DNS label; a claim's own name may be longer and have dots."""
    name = f"claim-{claim}"
    return name if len(name) <= 63 and "." not in name else f"claim-{digest(claim, 8)}"


def storage_address(spec: MultiTaskModelSpec) -> str:
    """``spec.storage.uri`` as a pod sees it, without a slash at its end: a path for a claim or a folder."""
    uri = _storage(spec)
    scheme = scheme_of(uri)
    if scheme == "pvc":
        claim, path = _split(uri)
        return f"{pvc_path(claim)}/{path}".rstrip("/")
    return (uri.removeprefix("file://") if scheme == "file" else uri).rstrip("/")


def is_local(spec: MultiTaskModelSpec) -> bool:
    """Whether storage is a folder in the pod, which outlives the pod and can hold checkpoints as they are."""
    return storage_address(spec).startswith("/")


def work_folder(spec: MultiTaskModelSpec, name: str) -> str:
    """The scratch folder of a stage in its pod."""
    return f"{storage_address(spec) if is_local(spec) else WORK_PATH}/work/{name}"


def uri_problems(spec: MultiTaskModelSpec) -> list[Problem]:
    """What a file on one machine may say and a resource in a cluster may not: addresses that mean nothing in a pod."""
    return list(_uri_problems(spec))


def _uri_problems(spec: MultiTaskModelSpec) -> Iterator[Problem]:
    if spec.storage is None:
        yield Problem("spec.storage", "a cluster needs it; give uri: pvc://CLAIM/PATH or s3://BUCKET/PATH")
        return
    for place, address in _named_addresses(spec):
        scheme = scheme_of(address)
        if scheme is None or (scheme == "file" and not address.startswith("file:///")):
            yield Problem(place, f"{address!r} is a path of one machine; give pvc://CLAIM/PATH, s3:// or hf://")
        elif scheme == "pvc" and ".." in _split(address)[1].split("/"):
            yield Problem(place, f"{address!r} leaves its claim; write the path without ..")


def _named_addresses(spec: MultiTaskModelSpec) -> Iterator[tuple[str, str]]:
    yield "spec.storage.uri", _storage(spec)
    yield "spec.baseModel.uri", spec.base_model.uri
    for index, source in enumerate(spec.pretraining.corpus if spec.pretraining else ()):
        yield f"spec.pretraining.corpus[{index}].uri", source.uri
    for index, task in enumerate(spec.tasks):
        for split in ("train", "validation", "test"):
            yield f"spec.tasks[{index}].data.{split}.uri", getattr(task.data, split).uri


def _addresses(spec: MultiTaskModelSpec, kind: str | None) -> Iterator[str]:
    for place, address in _named_addresses(spec):
        stage_kinds = _DATA_KINDS if place.startswith("spec.tasks") else _BASE_KINDS
        if kind is None or place == "spec.storage.uri" or kind in stage_kinds:
            yield address


def _split(address: str) -> tuple[str, str]:
    claim, _, path = address.removeprefix("pvc://").partition("/")
    return claim, path


def _storage(spec: MultiTaskModelSpec) -> str:
    """Its address; the schema of the custom resource requires it."""
    if spec.storage is None:
        raise ValueError("spec.storage is missing: check place_problems first")
    return spec.storage.uri
