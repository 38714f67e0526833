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
"""Bytes of packed manifests that resolve reports at most."""
MANIFEST_LIMIT = 100_000
"""Of one packed manifest: it and a failure's message fit into `multitask_api.cluster.CONFIGMAP_ROOM`."""
_MAX_UNPACKED_BYTES = 64 << 20
"""Bytes that unpacking may give: a ConfigMap that somebody edited must not fill the memory."""


def manifest_key(digest: str) -> str:
    """The ``binaryData`` key of the manifest of one order."""
    return f"{digest}.manifest.gz"


def pack_manifest(manifest: Manifest) -> str:
    """base64(gzip(JSON)) of what is `reported`; of a curve too long for a ConfigMap, every second point or fewer.

    Raises ValueError if it is too large even so.
    """
    data = without_files(manifest)
    while len(packed := _gzip(data)) > MANIFEST_LIMIT:
        if not _halve_curve(data):
            raise ValueError(
                f"the manifest of {manifest.stage} has {len(packed)} bytes; a ConfigMap holds no more of it"
            )
    return base64.b64encode(packed).decode("ascii")


def unpack_manifest(packed: str) -> Manifest:
    """What `pack_manifest` packed. Raises ValueError for anything else."""
    data = _gunzip(packed)
    if not isinstance(data, dict):
        raise ValueError("not a manifest")
    return Manifest.model_validate(data | {"files": {}})


def pack_manifests(manifests: Iterable[Manifest], limit: int = MANIFESTS_LIMIT) -> tuple[str, int]:
    """base64(gzip(JSON list)) of as many as ``limit`` bytes hold, from the first on; and how many these are."""
    kept = [without_files(manifest) for manifest in manifests]
    packed = _gzip(kept)
    while len(packed) > limit:
        # By the excess, and a little more: about one round for lists of equals, never more than one for each manifest.
        kept = list(islice(kept, min(len(kept) - 1, int(len(kept) * limit / len(packed) * 0.98))))
        packed = _gzip(kept)
    return base64.b64encode(packed).decode("ascii"), len(kept)


def unpack_manifests(packed: str) -> tuple[Manifest, ...]:
    """What `pack_manifests` packed. Raises ValueError for anything else."""
    data = _gunzip(packed)
    if not isinstance(data, list) or not all(isinstance(item, dict) for item in data):
        raise ValueError("not a list of manifests")
    return tuple(Manifest.model_validate(item | {"files": {}}) for item in data)


def without_files(manifest: Manifest) -> dict[str, object]:
    """A manifest without what only other stages read, in storage: ``files``, and the rows of each of many labels."""
    data = manifest.to_json()
    del data["files"]
    result = data["result"]
    if isinstance(result, dict):
        data["result"] = {name: value for name, value in result.items() if name != "labelCounts"}
    return data


def _halve_curve(data: dict[str, object]) -> bool:
    """Drop every second point of the result's curve, but not the ones it names; False if nothing is left to drop."""
    result = data["result"]
    curve = result.get("curve") if isinstance(result, dict) else None
    if not isinstance(result, dict) or not isinstance(curve, list):
        return False
    named = (result.get("chosenStep"), result.get("saturationStep"), curve[-1]["step"] if curve else None)
    kept = [point for place, point in enumerate(curve) if place % 2 == 0 or point["step"] in named]
    result["curve"] = kept
    return len(kept) < len(curve)


def _gzip(data: object) -> bytes:
    """Equal data, equal bytes: the header carries no time."""
    text = json.dumps(data, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return gzip.compress(text.encode(), mtime=0)


def _gunzip(packed: str) -> object:
    unzip = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        text = unzip.decompress(base64.b64decode(packed, validate=True), _MAX_UNPACKED_BYTES)
    except (binascii.Error, zlib.error) as error:
        raise ValueError(f"not base64 of gzip: {error}") from error
    if not unzip.eof:
        raise ValueError("cut off, or larger than any manifest")
    found: object = json.loads(text)
    return found
