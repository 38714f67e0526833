"""Claims are looked at before a pod waits for one."""

from __future__ import annotations

import pytest

from multitask_operator.reconciler.claims import blocker, parallel_jobs
from unit.operator.builders import model


def claim(*modes, phase="Bound", deleting=False):
    metadata = {"name": "models"} | ({"deletionTimestamp": "2026-01-01T00:00:00Z"} if deleting else {})
    return {"metadata": metadata, "spec": {"accessModes": list(modes)}, "status": {"phase": phase}}


def spec(nodes=1, parallel=4):
    found = model().spec
    return found.model_copy(
        update={"training": found.training.model_copy(update={"nodes": nodes, "max_parallel_jobs": parallel})}
    )


BLOCKED = {
    "missing": (None, 1, "ClaimMissing"),
    "being deleted": (claim("ReadWriteMany", deleting=True), 1, "ClaimDeleted"),
    "without its volume": (claim("ReadWriteMany", phase="Lost"), 1, "ClaimLost"),
    "for one node, and the Job has two": (claim("ReadWriteOnce"), 2, "StorageNotShared"),
    "for one pod, and the Job has two": (claim("ReadWriteOncePod"), 2, "StorageNotShared"),
}


@pytest.mark.parametrize("situation", BLOCKED)
def test_a_claim_that_cannot_carry_the_model_says_so(situation):
    item, nodes, reason = BLOCKED[situation]
    found = blocker(spec(nodes), {"models": item})
    assert found.reason == reason
    assert "'models'" in found.message


@pytest.mark.parametrize(("modes", "nodes"), [(("ReadWriteOnce",), 1), (("ReadWriteOnce", "ReadWriteMany"), 4)])
def test_a_claim_that_can_carry_it_blocks_nothing(modes, nodes):
    assert blocker(spec(nodes), {"models": claim(*modes)}) is None


def test_a_claim_that_binds_with_its_first_pod_blocks_nothing():
    assert blocker(spec(), {"models": claim("ReadWriteOnce", phase="Pending")}) is None


def test_a_claim_of_one_node_carries_one_job_at_a_time():
    assert parallel_jobs(spec(), {"a": claim("ReadWriteMany")}) == (4, "")
    assert parallel_jobs(spec(parallel=1), {"a": claim("ReadWriteOnce")}) == (1, "")
    limit, why = parallel_jobs(spec(), {"a": claim("ReadWriteMany"), "b": claim("ReadWriteOnce")})
    assert limit == 1
    assert why == "one Job at a time: claim 'b' mounts on one node only"
