"""What the operator and its stage pods have to agree on: labels, ConfigMap keys, paths, commands, packed manifests."""

from __future__ import annotations

import base64
import binascii
import gzip
import json
import zlib
from collections.abc import Iterable
from itertools import islice

from multitask_api.manifest import Manifest, StageOrder
from multitask_api.resource import MultiTaskModel
from multitask_api.types import Model

GROUP = "multitask.dev"

# -- labels and annotations of every child -----------------------------------------------------------------------------

MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"
MANAGED_BY = "multitask-operator"
MODEL_LABEL = f"{GROUP}/model"
KIND_LABEL = f"{GROUP}/kind"
"""A stage kind, `RESOLVE`, `RUN` or `CLEAN_UP`."""
STAGE_ANNOTATION = f"{GROUP}/stage"
"""The stage names of a unit, joined by commas."""
DIGEST_ANNOTATION = f"{GROUP}/digest"
"""Their digests, in the same order."""
GENERATION_ANNOTATION = f"{GROUP}/generation"
REFRESH_ANNOTATION = f"{GROUP}/refresh"
"""On the MultiTaskModel, by the user: another value looks at data and storage again."""

FINALIZER = f"{GROUP}/clean-up"
"""On the MultiTaskModel, by the operator: it stays until what its runs wrote is removed from storage."""

RESOLVE = "resolve"
RUN = "run"
CLEAN_UP = "clean-up"
TRAINING_KINDS = ("base", "baseline", "high-resource", "mixture")
"""The kinds that share their work over the processes of a launch; in every other kind only the first one works."""

# -- keys of a unit's ConfigMap ----------------------------------------------------------------------------------------

ORDERS_KEY = "orders.json"
"""In ``data``, by the operator: an `Orders`."""
RESOLVE_KEY = "resolve.json"
"""In ``data``, by the operator: a `ResolveOrder`."""
CLEAN_UP_KEY = "clean-up.json"
"""In ``data``, by the operator: a `CleanUpOrder`."""
PROGRESS_KEY = "progress.json"
"""In ``data``, by the pod: a StageProgress."""
FAILURE_KEY = "failure.json"
"""In ``data``, by the pod: a StageFailure and ``digest``; removed when the next attempt begins."""
RESOLVED_KEY = "resolved.json"
"""In ``data``, by the pod: a Resolved."""
CLEANED_KEY = "cleaned.json"
"""In ``data``, by the pod: a `Cleaned`."""
MANIFESTS_KEY = "manifests.gz"
"""In ``binaryData``, by the resolve pod: `pack_manifests`."""
SNAPSHOT_KEY = "snapshot.json"
"""In ``data`` of a run's ConfigMap, by the operator."""

# -- in the pod --------------------------------------------------------------------------------------------------------

ROOT = "/multitask"
ORDERS_PATH = f"{ROOT}/orders"
CLAIMS_PATH = f"{ROOT}/claims"
WORK_PATH = f"{ROOT}/work"
"""An emptyDir: gone with the pod."""

CONFIGMAP_VARIABLE = "MULTITASK_CONFIGMAP"
"""``<namespace>/<name>`` of the unit's own ConfigMap."""
MOUNTS_VARIABLE = "MULTITASK_MOUNTS"
"""JSON: claim → path."""
POD_ENVIRONMENT = {
    "HOME": WORK_PATH,
    "TMPDIR": f"{WORK_PATH}/tmp",
    "HF_HOME": f"{WORK_PATH}/huggingface",
    "XDG_CACHE_HOME": f"{WORK_PATH}/cache",
    "XDG_CONFIG_HOME": f"{WORK_PATH}/config",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONUNBUFFERED": "1",
}
"""The root file system is read-only: whatever a library writes goes here. The pod program makes the folders."""

EXIT_DONE = 0
EXIT_USER_ERROR = 2
"""Final: the same order cannot succeed."""
EXIT_RETRYABLE = 75
"""EX_TEMPFAIL of sysexits.h: the same order may succeed later."""

MASTER_PORT = 29400
"""Where the processes of a unit on several nodes meet, on its first pod."""

CONFIGMAP_LIMIT = 1024 * 1024
"""Bytes of all values of a ConfigMap together: the API server's limit."""
CONFIGMAP_ROOM = 128 * 1024
"""What of it a unit's pods have for what they find, whatever they are told."""
MANIFESTS_LIMIT = 700_000
"""Bytes of packed manifests that resolve reports at most."""
MANIFEST_LIMIT = 100_000
"""Of one packed manifest: it and a failure's message fit into `CONFIGMAP_ROOM`."""
_LARGEST_TEXT = 64 << 20
"""Bytes that something packed may become: what a hand has put there must not fill the memory."""


class Orders(Model):
    """What a unit runs, one after the other."""

    orders: tuple[StageOrder, ...]


class ResolveOrder(Model):
    """What the resolve unit looks at."""

    model: MultiTaskModel
    storage: str
    """The address, as pods see it, below which ``stages/`` lies."""


class CleanUpOrder(Model):
    """What the clean-up unit removes: what the runs of ``model`` have written below ``storage``."""

    model: str
    """As in its runs' orders, see `writer`."""
    storage: str
    """The address, as pods see it, below which ``stages/`` and ``work/`` lie."""


class Cleaned(Model):
    """What a clean-up came to; of one that was interrupted, the last attempt's share."""

    results: int
    files: int
    bytes: int
    left: int
    """Files that lie among the results and are not this model's."""


def writer(namespace: str, name: str) -> str:
    """What the orders and manifests of a cluster's model call it."""
    return f"{namespace}/{name}"


def own_folder(model: str) -> str:
    """One folder name for everything of ``model`` that is not a result. Names in a cluster have no underscore."""
    return model.replace("/", "__")


def claim_path(claim: str) -> str:
    """Where a claim is mounted."""
    return f"{CLAIMS_PATH}/{claim}"


def command(unit: str, *, nodes: int = 1, processes: int = 1) -> list[str]:
    """The command of a stage container: ``processes`` of them on each of ``nodes`` pods.

    With several nodes the pods are those of an Indexed Job called ``unit`` below a headless Service of the same name.
    """
    program = ["python", "-m", "multitask_trainer.pod"]
    if nodes == 1 and processes == 1:
        return program
    launch = ["python", "-m", "multitask_trainer.launch", f"--processes={processes}"]
    if nodes > 1:
        launch += [f"--nodes={nodes}", f"--master={unit}-0.{unit}:{MASTER_PORT}"]
    return [*launch, *program[1:]]


# -- manifests in ConfigMaps -------------------------------------------------------------------------------------------


def manifest_key(digest: str) -> str:
    """The ``binaryData`` key of the manifest of one order."""
    return f"{digest}.manifest.gz"


def pack_manifest(manifest: Manifest) -> str:
    """base64(gzip(JSON)) of what is `reported`; of a curve too long for a ConfigMap, every second point or fewer.

    Raises ValueError if it is too large even so.
    """
    data = reported(manifest)
    while len(packed := _gzip(data)) > MANIFEST_LIMIT:
        if not _thin(data):
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
    kept = [reported(manifest) for manifest in manifests]
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


def reported(manifest: Manifest) -> dict[str, object]:
    """A manifest without what only other stages read, in storage: ``files``, and the rows of each of many labels."""
    data = manifest.to_json()
    del data["files"]
    result = data["result"]
    if isinstance(result, dict):
        data["result"] = {name: value for name, value in result.items() if name != "labelCounts"}
    return data


def _thin(data: dict[str, object]) -> bool:
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
        text = unzip.decompress(base64.b64decode(packed, validate=True), _LARGEST_TEXT)
    except (binascii.Error, zlib.error) as error:
        raise ValueError(f"not base64 of gzip: {error}") from error
    if not unzip.eof:
        raise ValueError("cut off, or larger than any manifest")
    found: object = json.loads(text)
    return found
