"""Manifests as a ConfigMap carries them: JSON, gzip, base64."""

from __future__ import annotations

import base64
import binascii
import gzip
import json
import zlib
from collections.abc import Iterable
from itertools import islice

from multitask_api.stage_io.manifest import Manifest

MANIFESTS_LIMIT = 700_000
"""Largest size in bytes of the packed manifests that resolve reports."""
MANIFEST_LIMIT = 100_000
"""Largest size in bytes of one packed manifest, so that it and the message of a failure fit into
`multitask_api.cluster.CONFIGMAP_POD_SHARE`."""
_MAX_UNPACKED_BYTES = 64 << 20
"""Largest size in bytes of unpacked manifests: a ConfigMap that somebody edited must not fill the memory."""


def manifest_key(digest: str) -> str:
    """The ``binaryData`` key of the manifest of one order."""
    return f"{digest}.manifest.gz"


def pack_manifest(manifest: Manifest) -> str:
    """base64(gzip(JSON)) of the manifest `without_files`.

    A learning curve that is too long for a ConfigMap keeps every second point, or fewer. Raises ValueError if the rest
    is too large.
    """
    data = without_files(manifest)
    while len(packed := _gzip(data)) > MANIFEST_LIMIT:
        if not _halve_curve(data):
            raise ValueError(
                f"the manifest of {manifest.stage} has {len(packed)} bytes packed; at most {MANIFEST_LIMIT} fit"
            )
    return base64.b64encode(packed).decode("ascii")


def unpack_manifest(packed: str) -> Manifest:
    """The inverse of `pack_manifest`. Raises ValueError for other text."""
    data = _gunzip(packed)
    if not isinstance(data, dict):
        raise ValueError("not a manifest")
    return Manifest.model_validate(data | {"files": {}})


def pack_manifests(manifests: Iterable[Manifest], limit: int = MANIFESTS_LIMIT) -> tuple[str, int]:
    """base64(gzip(JSON list)) of the first manifests, as many as fit into ``limit`` bytes, and their number."""
    kept = [without_files(manifest) for manifest in manifests]
    packed = _gzip(kept)
    while len(packed) > limit:
        # In proportion to the excess, and 2 % more: one round is usually enough. Each drops at least one manifest.
        kept = list(islice(kept, min(len(kept) - 1, int(len(kept) * limit / len(packed) * 0.98))))
        packed = _gzip(kept)
    return base64.b64encode(packed).decode("ascii"), len(kept)


def unpack_manifests(packed: str) -> tuple[Manifest, ...]:
    """The inverse of `pack_manifests`. Raises ValueError for other text."""
    data = _gunzip(packed)
    if not isinstance(data, list) or not all(isinstance(item, dict) for item in data):
        raise ValueError("not a list of manifests")
    return tuple(Manifest.model_validate(item | {"files": {}}) for item in data)


def without_files(manifest: Manifest) -> dict[str, object]:
    """A manifest as JSON without what only other stages read, from storage: ``files`` and the row counts of labels."""
    data = manifest.to_json()
    del data["files"]
    result = data["result"]
    if isinstance(result, dict):
        data["result"] = {name: value for name, value in result.items() if name != "labelCounts"}
    return data


def _halve_curve(data: dict[str, object]) -> bool:
    """Drop every second point of the result's curve, but not its chosen, saturation and last step; False if none is
    left to drop."""
    result = data["result"]
    curve = result.get("curve") if isinstance(result, dict) else None
    if not isinstance(result, dict) or not isinstance(curve, list):
        return False
    named = (result.get("chosenStep"), result.get("saturationStep"), curve[-1]["step"] if curve else None)
    kept = [point for place, point in enumerate(curve) if place % 2 == 0 or point["step"] in named]
    result["curve"] = kept
    return len(kept) < len(curve)


def _gzip(data: object) -> bytes:
    """Equal data gives equal bytes: the header has no time."""
    text = json.dumps(data, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return gzip.compress(text.encode(), mtime=0)


def _gunzip(packed: str) -> object:
    unzip = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        text = unzip.decompress(base64.b64decode(packed, validate=True), _MAX_UNPACKED_BYTES)
    except (binascii.Error, zlib.error) as error:
        raise ValueError(f"not base64 of gzip: {error}") from error
    if not unzip.eof:
        raise ValueError("incomplete, or larger than any manifest")
    data: object = json.loads(text)
    return data
