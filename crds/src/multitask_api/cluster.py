"""The contract between the operator and the pods that it starts.

The operator runs training as *stage Jobs*. A stage Job runs one or more stages of one kind, or one of three auxiliary
programs: ``resolve`` (fingerprints data and base model, lists finished results), ``gc`` (deletes results that nothing
uses any more) and ``clean-up`` (deletes the results of a deleted model). For each the operator creates a ConfigMap and
a Job of the same name. Through this ConfigMap the operator and the pods of the Job exchange everything::

    operator  ──  ConfigMap data: orders.json | resolve.json | gc.json | …     ──▶  pod (mounted at ORDERS_PATH)
    operator  ◀──  ConfigMap data: progress.json, failure.json, <digest>.manifest.gz, …  ──  pod (merge patch)

* The pod reads its order from the mounted file, works, and writes what it has to report into the same ConfigMap, under
  other keys. Its ServiceAccount may get and patch the ConfigMaps of its model, nothing else.
* The exit code tells the Job whether another attempt can help (`EXIT_DONE`, `EXIT_USER_ERROR`, `EXIT_RETRYABLE`).
* Results themselves are in storage, see `multitask_api.stage_io.manifest`; a ConfigMap has only a manifest without its
  list of files.

Every constant here is on the wire. A run keeps the images it began with, so a newer operator talks to older pods: keys,
paths, labels, commands and the fields of the records may be added, never renamed.
"""

from __future__ import annotations

from typing import Literal

from multitask_api.resource import MultiTaskModel
from multitask_api.stage_io.manifest import StageOrder
from multitask_api.types import Record

GROUP = "multitask.dev"

# -- labels and annotations --------------------------------------------------------------------------------------------

MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"
MANAGED_BY = "multitask-operator"
MODEL_LABEL = f"{GROUP}/model"
"""On every object of a model: the name of the MultiTaskModel."""
KIND_LABEL = f"{GROUP}/kind"
"""On every object of a model: a kind of stage, `RESOLVE`, `RUN`, `GC` or `CLEAN_UP`."""
STAGE_ANNOTATION = f"{GROUP}/stage"
"""On Job and ConfigMap: the names of the stages of a stage Job, joined by commas."""
DIGEST_ANNOTATION = f"{GROUP}/digest"
"""On Job and ConfigMap: the digests of these stages, in the same order."""
GENERATION_ANNOTATION = f"{GROUP}/generation"
"""On ConfigMaps and Jobs: the ``metadata.generation`` of the model that they were created for."""
RESOLVED_BY_ANNOTATION = f"{GROUP}/resolved-by"
"""On Job and ConfigMap of stages: the resolve Job of the generation that they were created for."""
POD_SETTINGS_ANNOTATION = f"{GROUP}/pod-settings"
"""On Jobs: a hash of all that their pods were created with."""
REFRESH_ANNOTATION = f"{GROUP}/refresh"
"""On the MultiTaskModel, set by users: a new value checks data, base model and storage again, with the stages and the
image of the installed release."""
GC_ANNOTATION = f"{GROUP}/gc"
"""On the MultiTaskModel, set by `mtm gc`: ``remove TIME`` or ``list TIME``. A new value is a new order, which is
carried out or refused once; to remove the annotation withdraws it."""

FINALIZER = f"{GROUP}/clean-up"
"""On the MultiTaskModel, set by the operator: removed once the results of its runs are deleted from storage."""

RESOLVE = "resolve"
"""Kind of the Job that looks up data, base model and finished results."""
RUN = "run"
"""Kind of the ConfigMap that records a run: the spec and the images that it began with."""
CLEAN_UP = "clean-up"
"""Kind of the Job that deletes the results of a deleted model."""
GC = "gc"
"""Kind of the Job that deletes the results of a model that nothing uses any more."""
TRAINING_KINDS = ("base", "baseline", "high-resource", "mixture")
"""The kinds of stages that train, on all GPUs of all nodes."""
SHARED_KINDS = (*TRAINING_KINDS, "evaluate")
"""The kinds whose work all processes of a Job share; in the others only the first one works."""

# -- keys of the ConfigMap of a stage Job ------------------------------------------------------------------------------

ORDERS_KEY = "orders.json"
"""In ``data``, written by the operator: an `Orders`."""
RESOLVE_KEY = "resolve.json"
"""In ``data``, written by the operator: a `ResolveOrder`."""
CLEAN_UP_KEY = "clean-up.json"
"""In ``data``, written by the operator: a `CleanUpOrder`."""
GC_KEY = "gc.json"
"""In ``data``, written by the operator: a `GarbageOrder`. It is no `CleanUpOrder` with more fields: an older image
would delete everything."""
PROGRESS_KEY = "progress.json"
"""In ``data``, written by the pod: a `StageProgress`."""
FAILURE_KEY = "failure.json"
"""In ``data``, written by the pod: a `StageFailure` and ``digest``; removed when the next attempt begins. If several
stages failed, its message has the messages of all, and `OTHER_FAILURES` the others."""
OTHER_FAILURES = "others"
"""In the value of `FAILURE_KEY`: a list of documents of the same form, one for each stage that failed after the first
one. An operator of an older release does not read it."""
FINAL_KEY = "final.json"
"""In ``data``, written by the operator when a Job has failed for good: a `StageFailure`, ``digest`` and ``time``. The
Job itself is removed after a day."""
DISRUPTIONS_KEY = "disruptions.json"
"""In ``data``, written by the operator: which pods of the Job were ended from outside, evicted or preempted or drained:
``count``, the newest ``uids``, and ``last``, why. Such a pod is removed as soon as it has ended."""
RESTARTS_KEY = "restarts.json"
"""In ``data``, written by the operator: the uids of the Jobs of this name that it ended to begin another attempt,
because a sidecar kept their pods from ending."""
RESOLVED_KEY = "resolved.json"
"""In ``data``, written by the pod: a `Resolved`."""
CLEAN_UP_RESULT_KEY = "cleaned.json"
"""In ``data``, written by the pod: a `CleanUpResult`."""
GC_RESULT_KEY = "collected.json"
"""In ``data``, written by the pod: a `GarbageResult`."""
GC_ANSWER_KEY = "answer.json"
"""In ``data``, written by the operator: a `GarbageAnswer`, how an order of `GC_ANNOTATION` ended."""
REMOVED_KEY = "removed.json"
"""In ``data`` of the ConfigMap of `RESOLVE`, written by the operator: the digests of results that were in storage when
it was listed, and that an order of `GC_ANNOTATION` has had removed since."""
MANIFESTS_KEY = "manifests.gz"
"""In ``binaryData``, written by the pod that resolves: the finished results in storage, see `pack_manifests`.

The manifest of a stage has a key of its own, see `multitask_api.stage_io.packing.manifest_key`.
"""
SNAPSHOT_KEY = "snapshot.json"
"""In ``data`` of the ConfigMap of a run, written by the operator."""

CONFIGMAP_LIMIT = 1024 * 1024
"""Largest size in bytes of all values of a ConfigMap together; the API server rejects more."""
CONFIGMAP_POD_SHARE = 128 * 1024
"""Bytes of it that the operator leaves free for what the pod reports."""
MAX_LISTED_RESULTS = 500
"""Results that a Job of kind `GC` names one by one."""

# -- paths and environment of the pod ----------------------------------------------------------------------------------

ROOT = "/multitask"
ORDERS_PATH = f"{ROOT}/orders"
"""Where the ConfigMap is mounted: the order is the file of its key."""
PVCS_PATH = f"{ROOT}/claims"
"""Below it each PersistentVolumeClaim is mounted, see `pvc_path`."""
WORK_PATH = f"{ROOT}/work"
"""An emptyDir for scratch files; it is deleted with the pod."""

CONFIGMAP_VARIABLE = "MULTITASK_CONFIGMAP"
"""``<namespace>/<name>`` of the ConfigMap that the pod reports to."""
MOUNTS_VARIABLE = "MULTITASK_MOUNTS"
"""JSON: name of a PersistentVolumeClaim → path where it is mounted; ``pvc://`` URIs are looked up in it."""
POD_ENVIRONMENT = {
    "HOME": WORK_PATH,
    "TMPDIR": f"{WORK_PATH}/tmp",
    "HF_HOME": f"{WORK_PATH}/huggingface",
    "XDG_CACHE_HOME": f"{WORK_PATH}/cache",
    "XDG_CONFIG_HOME": f"{WORK_PATH}/config",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONUNBUFFERED": "1",
}
"""Libraries write below `WORK_PATH`, because the root file system is read-only. The pod creates the folders."""

# -- exit codes and commands -------------------------------------------------------------------------------------------

EXIT_DONE = 0
"""Every stage of the order is done and reported."""
EXIT_USER_ERROR = 2
"""The input is wrong: the Job fails at once, because the same order cannot succeed."""
EXIT_RETRYABLE = 75
"""EX_TEMPFAIL of sysexits.h: the same order may succeed later, so the Job starts another pod."""
EXIT_ALONE = 76
"""Of a Job with several pods: the others did not come in time. The pod gives its GPUs back, and that is no failure."""

MASTER_PORT = 29400
"""Port for the rendezvous of the processes of a Job with several pods, on its first pod."""


class Orders(Record):
    """The stages that a stage Job runs, one after the other."""

    orders: tuple[StageOrder, ...]


class ResolveOrder(Record):
    """What the Job of kind `RESOLVE` looks up."""

    model: MultiTaskModel
    storage: str
    """URI or path of storage as pods see it; results are below its folder ``stages/``."""


class CleanUpOrder(Record):
    """What the Job of kind `CLEAN_UP` deletes: everything below ``storage`` that runs of ``model`` wrote."""

    model: str
    """The name in the orders and manifests of its runs, see `qualified_name`."""
    storage: str
    """URI or path of storage as pods see it; its folders are ``stages/`` and ``work/``."""


class CleanUpResult(Record):
    """What a clean-up deleted; if it was interrupted, only what the last attempt deleted."""

    results: int
    files: int
    bytes: int
    left: int
    """Files among the results that do not belong to this model; they are kept."""


class GarbageOrder(Record):
    """What the Job of kind `GC` deletes: what runs of ``model`` wrote below ``storage``, but for what is named here."""

    model: str
    """The name in the orders and manifests of its runs, see `qualified_name`."""
    storage: str
    """URI or path of storage as pods see it."""
    keep: tuple[str, ...]
    """``STAGE/DIGEST`` of the results that are used."""
    unfinished: tuple[str, ...] = ()
    """Those of them that are still to be made: their work folders stay, too."""
    keep_stages: tuple[str, ...] = ()
    """Stages whose digest is not known yet: any result and any work folder of them may be used again."""
    dry_run: bool
    """Whether to report only."""


class UnusedResult(Record):
    """A result that nothing uses."""

    name: str
    """``STAGE/DIGEST``."""
    bytes: int


class GarbageResult(Record):
    """What a Job of kind `GC` deleted, or with ``dry_run`` would delete."""

    dry_run: bool
    results: tuple[UnusedResult, ...]
    """The largest first, at most `MAX_LISTED_RESULTS`."""
    count: int
    """Of all results."""
    files: int
    """Of results, work folders and incomplete uploads."""
    bytes: int
    left: int
    """Files among the results that do not belong to this model; they are kept."""


class GarbageAnswer(Record):
    """How an order of `GC_ANNOTATION` ended."""

    phase: Literal["Done", "Refused", "Failed"]
    message: str


def qualified_name(namespace: str, name: str) -> str:
    """The name of a model in orders and manifests: with its namespace, because models may share storage."""
    return f"{namespace}/{name}"


def model_folder(model: str) -> str:
    """The folder for everything of ``model`` but its results. Unambiguous: names in Kubernetes have no underscore."""
    return model.replace("/", "__")


def pvc_path(pvc: str) -> str:
    """Where a PersistentVolumeClaim is mounted."""
    return f"{PVCS_PATH}/{pvc}"


def command(job_name: str, *, nodes: int = 1, processes: int = 1) -> list[str]:
    """The command of a stage container: ``processes`` processes in each of ``nodes`` pods.

    With several nodes the pods are those of an Indexed Job ``job_name`` with a headless Service of the same name.
    """
    program = ["python", "-m", "multitask_trainer.pod"]
    if nodes == 1 and processes == 1:
        return program
    launch = ["python", "-m", "multitask_trainer.launch", f"--processes={processes}"]
    if nodes > 1:
        launch += [f"--nodes={nodes}", f"--master={job_name}-0.{job_name}:{MASTER_PORT}"]
    return [*launch, *program[1:]]
