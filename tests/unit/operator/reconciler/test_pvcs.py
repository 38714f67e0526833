"""Claims are checked before a pod waits for one."""

from __future__ import annotations

import pytest

from multitask_operator.reconciler.pvcs import claims_blocked, single_node_claims
from support.graph_builders import model, task


def claim(*modes, phase="Bound", deleting=False):
    metadata = {"name": "models"} | ({"deletionTimestamp": "2026-01-01T00:00:00Z"} if deleting else {})
    return {"metadata": metadata, "spec": {"accessModes": list(modes)}, "status": {"phase": phase}}


def spec(nodes=1):
    return model(training={"nodes": nodes}).spec


BLOCKED = {
    "missing": (None, 1, "ClaimMissing"),
    "being deleted": (claim("ReadWriteMany", deleting=True), 1, "ClaimDeleted"),
    "without its volume": (claim("ReadWriteMany", phase="Lost"), 1, "ClaimLost"),
    "for one node, and the Job has two": (claim("ReadWriteOnce"), 2, "StorageNotShared"),
    "for one pod, and the Job has two": (claim("ReadWriteOncePod"), 2, "StorageNotShared"),
}


@pytest.mark.parametrize("situation", BLOCKED)
def test_a_claim_that_cannot_serve_the_model_blocks_it(situation):
    item, nodes, reason = BLOCKED[situation]
    blocker = claims_blocked(spec(nodes), {"models": item})
    assert blocker.reason == reason
    assert "'models'" in blocker.message


@pytest.mark.parametrize(("modes", "nodes"), [(("ReadWriteOnce",), 1), (("ReadWriteOnce", "ReadWriteMany"), 4)])
def test_a_claim_that_can_serve_it_blocks_nothing(modes, nodes):
    assert claims_blocked(spec(nodes), {"models": claim(*modes)}) is None


def test_a_claim_that_binds_with_its_first_pod_blocks_nothing():
    assert claims_blocked(spec(), {"models": claim("ReadWriteOnce", phase="Pending")}) is None


# the sentence, access modes of the claims, the kind of a Job, which of them it has for itself
SINGLE = [
    ("training mounts storage alone", {"models": "ReadWriteOnce", "data": "ReadWriteOnce"}, "baseline", {"models"}),
    (
        "shared storage ties no training to a node",
        {"models": "ReadWriteMany", "data": "ReadWriteOnce"},
        "mixture",
        set(),
    ),
    ("prepare reads data", {"models": "ReadWriteMany", "data": "ReadWriteOnce"}, "prepare", {"data"}),
    ("the base reads its corpus", {"models": "ReadWriteMany", "chats": "ReadWriteOncePod"}, "base", {"chats"}),
    ("what many nodes may read is shared", {"models": "ReadWriteMany", "data": "ReadOnlyMany"}, "prepare", set()),
    (
        "a pod template's claim is every Job's",
        {"models": "ReadWriteMany", "cache": "ReadWriteOnce"},
        "filter",
        {"cache"},
    ),
    ("a missing claim excludes nothing", {"models": None}, "filter", set()),
]


@pytest.mark.parametrize(("sentence", "modes", "kind", "expected"), SINGLE, ids=[row[0] for row in SINGLE])
def test_which_claims_of_one_node_a_job_mounts(sentence, modes, kind, expected):
    entry = task("urgency")
    entry["data"] = {split: {"uri": f"pvc://data/{split}.jsonl"} for split in ("train", "validation", "test")}
    volume = {"name": "cache", "persistentVolumeClaim": {"claimName": "cache"}}
    resource = model(
        entry,
        storage={"uri": "pvc://models/desk"},
        pretraining={"corpus": [{"uri": "pvc://chats/all.jsonl"}], "maxSteps": 10},
        training={"podTemplate": {"spec": {"volumes": [volume]}}},
    )
    claims = {name: None if mode is None else claim(mode) for name, mode in modes.items()}
    assert single_node_claims(resource.spec, kind, claims) == expected
