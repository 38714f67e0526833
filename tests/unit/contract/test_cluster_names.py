"""Labels, annotations, ConfigMap keys, variables, paths, exit codes and commands that operator and pods agree on.

Both ends may be of different versions: each value is the one of version 0.1.0.
"""

from __future__ import annotations

import pytest

from multitask_api import bundle, cluster
from multitask_api.resource.model import API_VERSION
from multitask_api.stage_io import manifest, packing
from multitask_kubernetes.client import FIELD_MANAGER
from multitask_operator.local.processes import MARKER
from multitask_operator.objects.names import (
    Owner,
    access_name,
    clean_up_name,
    gc_name,
    resolve_name,
    run_name,
    selector,
)
from multitask_operator.objects.names import stage_job_name as job_name

VALUES = {
    # labels, annotations and the finalizer
    "GROUP": "multitask.dev",
    "MANAGED_BY_LABEL": "app.kubernetes.io/managed-by",
    "MANAGED_BY": "multitask-operator",
    "MODEL_LABEL": "multitask.dev/model",
    "KIND_LABEL": "multitask.dev/kind",
    "STAGE_ANNOTATION": "multitask.dev/stage",
    "DIGEST_ANNOTATION": "multitask.dev/digest",
    "GENERATION_ANNOTATION": "multitask.dev/generation",
    "RESOLVED_BY_ANNOTATION": "multitask.dev/resolved-by",
    "POD_SETTINGS_ANNOTATION": "multitask.dev/pod-settings",
    "REFRESH_ANNOTATION": "multitask.dev/refresh",
    "GC_ANNOTATION": "multitask.dev/gc",
    "FINALIZER": "multitask.dev/clean-up",
    # kinds of Jobs beside the stage kinds
    "RESOLVE": "resolve",
    "RUN": "run",
    "CLEAN_UP": "clean-up",
    "GC": "gc",
    "SHARED_KINDS": ("base", "baseline", "high-resource", "mixture", "evaluate"),
    "TRAINING_KINDS": ("base", "baseline", "high-resource", "mixture"),
    # keys of a Job's ConfigMap
    "ORDERS_KEY": "orders.json",
    "RESOLVE_KEY": "resolve.json",
    "CLEAN_UP_KEY": "clean-up.json",
    "GC_KEY": "gc.json",
    "PROGRESS_KEY": "progress.json",
    "FAILURE_KEY": "failure.json",
    "OTHER_FAILURES": "others",
    "FINAL_KEY": "final.json",
    "DISRUPTIONS_KEY": "disruptions.json",
    "RESTARTS_KEY": "restarts.json",
    "RESOLVED_KEY": "resolved.json",
    "CLEAN_UP_RESULT_KEY": "cleaned.json",
    "GC_RESULT_KEY": "collected.json",
    "GC_ANSWER_KEY": "answer.json",
    "REMOVED_KEY": "removed.json",
    "MANIFESTS_KEY": "manifests.gz",
    "SNAPSHOT_KEY": "snapshot.json",
    # in the pod
    "ROOT": "/multitask",
    "ORDERS_PATH": "/multitask/orders",
    "PVCS_PATH": "/multitask/claims",
    "WORK_PATH": "/multitask/work",
    "CONFIGMAP_VARIABLE": "MULTITASK_CONFIGMAP",
    "MOUNTS_VARIABLE": "MULTITASK_MOUNTS",
    "POD_ENVIRONMENT": {
        "HOME": "/multitask/work",
        "TMPDIR": "/multitask/work/tmp",
        "HF_HOME": "/multitask/work/huggingface",
        "XDG_CACHE_HOME": "/multitask/work/cache",
        "XDG_CONFIG_HOME": "/multitask/work/config",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
    },
    "EXIT_DONE": 0,
    "EXIT_USER_ERROR": 2,
    "EXIT_RETRYABLE": 75,
    "EXIT_ALONE": 76,
    "MASTER_PORT": 29400,
    # how much of a ConfigMap each side may fill
    "CONFIGMAP_LIMIT": 1048576,
    "CONFIGMAP_POD_SHARE": 131072,
    "MAX_LISTED_RESULTS": 500,
}
OWNER = Owner("team-a", "desk", "0d4c2bb1-8f3e-4b57-9f4b-2f1f7f0a7c11")
LONG = "a-model-with-a-name-that-is-longer-than-all-limits-of-names"


@pytest.mark.parametrize("name", VALUES)
def test_value_of(name: str):
    assert getattr(cluster, name) == VALUES[name]


def test_no_constant_of_the_contract_is_left_out():
    assert {name for name in vars(cluster) if name.isupper() and not name.startswith("_")} == set(VALUES)


def test_values_of_other_modules():
    assert API_VERSION == "multitask.dev/v1alpha1"
    assert FIELD_MANAGER == "multitask-operator"
    assert MARKER == "MTM_WORKDIR"
    assert manifest.MANIFEST == "manifest.json"
    assert (bundle.BASE_MODEL, bundle.BASELINE) == ("base", "baseline")
    assert (packing.MANIFESTS_LIMIT, packing.MANIFEST_LIMIT) == (700_000, 100_000)
    assert packing.manifest_key("0123456789ab") == "0123456789ab.manifest.gz"


def test_commands_of_a_pod():
    assert cluster.command("job") == ["python", "-m", "multitask_trainer.pod"]
    assert cluster.command("job", processes=4) == [
        *("python", "-m", "multitask_trainer.launch", "--processes=4"),
        *("-m", "multitask_trainer.pod"),
    ]
    assert cluster.command("job", nodes=2, processes=4) == [
        *("python", "-m", "multitask_trainer.launch", "--processes=4", "--nodes=2", "--master=job-0.job:29400"),
        *("-m", "multitask_trainer.pod"),
    ]


def test_names_and_folders():
    assert cluster.qualified_name("team-a", "desk") == "team-a/desk"
    assert cluster.model_folder("team-a/desk") == "team-a__desk"
    assert cluster.pvc_path("data") == "/multitask/claims/data"


def test_names_of_children():
    assert job_name("desk", "prepare", ["0123456789ab"]) == "desk-prepare-01234567"
    assert job_name("desk", "prepare", ["0123456789ab", "ba9876543210"]) == "desk-prepare-4d510cb3"
    assert job_name(LONG, "mixture", ["0123456789ab"]) == "a-model-with-a-name-tha-5ce013-mixture-01234567"
    assert resolve_name(OWNER, 3, None) == "desk-resolve-e67ca118"
    assert resolve_name(OWNER, 3, "again") == "desk-resolve-db73f0af"
    assert clean_up_name(OWNER) == "desk-clean-up-6f575368"
    assert gc_name(OWNER, "remove 2026-11-28T05:00:00Z") == "desk-gc-fd1ed729"
    assert run_name("desk", 3) == "desk-run-3"
    for kind in ("stages", "mixture", "resolve", "clean-up"):
        assert access_name("desk", kind) == "desk-stages"
    assert access_name(LONG, "stages") == "a-model-with-a-name-that-is-longer-than-all-5ce013-stages"
    assert access_name("desk", "gc") == "desk-gc"
    assert access_name(LONG, "gc") == "a-model-with-a-name-that-is-longer-than-all-5ce013-gc"
    assert access_name("desk", "verify-revision") == "desk-verify"
    assert access_name(LONG, "verify-revision") == "a-model-with-a-name-tha-5ce013-verify"
    assert selector("desk") == "app.kubernetes.io/managed-by=multitask-operator,multitask.dev/model=desk"
