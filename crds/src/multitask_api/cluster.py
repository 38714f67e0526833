"""What the operator and its stage pods have to agree on: labels, ConfigMap keys, paths, commands."""

from __future__ import annotations

from multitask_api.resource import MultiTaskModel
from multitask_api.stage_io.manifest import StageOrder
from multitask_api.types import Record

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
"""In ``data``, by the pod: a `CleanUpResult`."""
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


class Orders(Record):
    """What a unit runs, one after the other."""

    orders: tuple[StageOrder, ...]


class ResolveOrder(Record):
    """What the resolve unit looks at."""

    model: MultiTaskModel
    storage: str
    """The address, as pods see it, below which ``stages/`` lies."""


class CleanUpOrder(Record):
    """What the clean-up unit removes: what the runs of ``model`` have written below ``storage``."""

    model: str
    """As in its runs' orders, see `qualified_name`."""
    storage: str
    """The address, as pods see it, below which ``stages/`` and ``work/`` lie."""


class CleanUpResult(Record):
    """What a clean-up came to; of one that was interrupted, the last attempt's share."""

    results: int
    files: int
    bytes: int
    left: int
    """Files that lie among the results and are not this model's."""


def qualified_name(namespace: str, name: str) -> str:
    """What the orders and manifests of a cluster's model call it."""
    return f"{namespace}/{name}"


def model_folder(model: str) -> str:
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
