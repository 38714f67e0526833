"""Where the URIs of a spec are in a pod: the claims to mount, and ``spec.storage`` as a pod sees it."""

from __future__ import annotations

import json
from collections.abc import Iterator

from multitask_api.cluster import RESOLVE, WORK_PATH, pvc_path
from multitask_api.errors import Problem
from multitask_api.resource import MultiTaskModelSpec
from multitask_api.stages.digests import digest
from multitask_api.types import JsonDict
from multitask_api.uris import scheme_of

_DATA_KINDS = frozenset({RESOLVE, "prepare"})
_BASE_KINDS = frozenset({RESOLVE, "base"})


def mounted_pvc_names(spec: MultiTaskModelSpec, kind: str | None = None) -> tuple[str, ...]:
    """The claims that a pod of ``kind`` mounts (None: any pod of the model), sorted.

    Every pod mounts storage; data is mounted by the kinds that read it, the base model and its corpus by those that
    make the base: a claim that only one node may mount then binds as few pods as possible.
    """
    claims = {claim for uri in _uris(spec, kind) if (claim := pvc_of(uri)) is not None}
    return tuple(sorted(claims))


def pvc_of(uri: str) -> str | None:
    """The claim of a ``pvc://CLAIM/PATH`` URI; None for any other."""
    return _split(uri)[0] if scheme_of(uri) == "pvc" else None


def pod_volumes(spec: MultiTaskModelSpec, kind: str) -> list[JsonDict]:
    """The volumes of the claims that a pod of ``kind`` mounts."""
    return [
        {"name": volume_name(claim), "persistentVolumeClaim": {"claimName": claim}}
        for claim in mounted_pvc_names(spec, kind)
    ]


def volume_mounts(spec: MultiTaskModelSpec, kind: str) -> list[JsonDict]:
    """Their mounts; only storage is written to."""
    stored = pvc_of(_storage(spec))
    return [
        {"name": volume_name(claim), "mountPath": pvc_path(claim), **({} if claim == stored else {"readOnly": True})}
        for claim in mounted_pvc_names(spec, kind)
    ]


def mounts_variable(spec: MultiTaskModelSpec, kind: str) -> str:
    """The value of ``MULTITASK_MOUNTS`` in a pod of ``kind``: JSON, claim → path."""
    return json.dumps({claim: pvc_path(claim) for claim in mounted_pvc_names(spec, kind)}, separators=(",", ":"))


def volume_name(claim: str) -> str:
    """The name of a claim's volume, a DNS label; a claim's own name may be longer and have dots."""
    name = f"claim-{claim}"
    return name if len(name) <= 63 and "." not in name else f"claim-{digest(claim, 8)}"


def storage_location(spec: MultiTaskModelSpec) -> str:
    """``spec.storage.uri`` as a pod sees it, without a slash at its end: a path for a claim or a folder."""
    uri = _storage(spec)
    scheme = scheme_of(uri)
    if scheme == "pvc":
        claim, path = _split(uri)
        return f"{pvc_path(claim)}/{path}".rstrip("/")
    return (uri.removeprefix("file://") if scheme == "file" else uri).rstrip("/")


def is_local(spec: MultiTaskModelSpec) -> bool:
    """Whether storage is a folder in the pod, which outlives the pod: checkpoints are written to it directly."""
    return storage_location(spec).startswith("/")


def work_folder(spec: MultiTaskModelSpec, name: str) -> str:
    """The scratch folder of a stage in its pod."""
    return f"{storage_location(spec) if is_local(spec) else WORK_PATH}/work/{name}"


def uri_problems(spec: MultiTaskModelSpec) -> list[Problem]:
    """URIs that mean something on one machine and nothing in a pod."""
    return list(_uri_problems(spec))


def _uri_problems(spec: MultiTaskModelSpec) -> Iterator[Problem]:
    if spec.storage is None:
        yield Problem("spec.storage", "a cluster needs it; give uri: pvc://CLAIM/PATH or s3://BUCKET/PATH")
        return
    for place, uri in _named_uris(spec):
        scheme = scheme_of(uri)
        if scheme is None or (scheme == "file" and not uri.startswith("file:///")):
            yield Problem(place, f"{uri!r} is a path of one machine; give pvc://CLAIM/PATH, s3:// or hf://")
        elif scheme == "pvc" and ".." in _split(uri)[1].split("/"):
            yield Problem(place, f"{uri!r} leaves its claim; write the path without ..")


def _named_uris(spec: MultiTaskModelSpec) -> Iterator[tuple[str, str]]:
    yield "spec.storage.uri", _storage(spec)
    yield "spec.baseModel.uri", spec.base_model.uri
    for index, source in enumerate(spec.pretraining.corpus if spec.pretraining else ()):
        yield f"spec.pretraining.corpus[{index}].uri", source.uri
    for index, task in enumerate(spec.tasks):
        for split, source in task.data.sources.items():
            yield f"spec.tasks[{index}].data.{split}.uri", source.uri


def _uris(spec: MultiTaskModelSpec, kind: str | None) -> Iterator[str]:
    for place, uri in _named_uris(spec):
        stage_kinds = _DATA_KINDS if place.startswith("spec.tasks") else _BASE_KINDS
        if kind is None or place == "spec.storage.uri" or kind in stage_kinds:
            yield uri


def _split(uri: str) -> tuple[str, str]:
    claim, _, path = uri.removeprefix("pvc://").partition("/")
    return claim, path


def _storage(spec: MultiTaskModelSpec) -> str:
    """The storage URI; the schema of the custom resource requires it."""
    if spec.storage is None:
        raise ValueError("spec.storage is missing: check uri_problems first")
    return spec.storage.uri
