"""The objects that an older operator left: the present one goes on with them, and does nothing again."""

from __future__ import annotations

import copy
import json

import pytest

from support.frozen import IMAGE, FrozenCluster, by_name, comparable, contains, frozen_objects, status_of

TRAINED = frozen_objects("trained")


@pytest.mark.parametrize("moment", ["running", "trained", "deleting"])
def test_nothing_is_made_changed_or_deleted_by_the_upgrade_alone(moment):
    cluster = FrozenCluster(moment)
    before, status = copy.deepcopy(cluster.objects), comparable(cluster.model["status"])
    cluster.settle()
    assert cluster.created == []
    assert cluster.objects == before
    assert contains(comparable(cluster.model["status"]), status)


def test_the_run_goes_on_to_the_end_that_the_older_operator_came_to():
    cluster = FrozenCluster("running")
    finished, open_jobs = set(cluster.jobs(open_only=False)) - set(cluster.jobs()), cluster.jobs()
    assert (len(finished), len(open_jobs)) == (4, 1)
    cluster.to_the_end()
    assert contains(comparable(cluster.model["status"]), status_of(TRAINED))
    assert set(cluster.jobs(open_only=False)) == set(by_name(TRAINED, "Job"))
    assert sorted([*finished, *open_jobs, *cluster.job_runs]) == sorted(by_name(TRAINED, "Job")), "each ran once"


def test_the_remaining_stages_get_the_same_orders_as_from_the_older_operator():
    cluster = FrozenCluster("running")
    cluster.to_the_end()
    compared = 0
    for name, older in by_name(TRAINED, "ConfigMap").items():
        newer = cluster.objects["ConfigMap", name]
        assert contains(newer["metadata"]["labels"], older["metadata"]["labels"])
        assert contains(newer["metadata"].get("annotations") or {}, older["metadata"].get("annotations") or {})
        if "orders.json" in older["data"]:
            assert contains(*(json.loads(item["data"]["orders.json"]) for item in (newer, older)))
            compared += ("ConfigMap", name) in cluster.created
    assert compared == 6


def test_the_run_keeps_its_image_and_the_shape_of_its_jobs():
    cluster = FrozenCluster("running")
    cluster.to_the_end()
    older = by_name(TRAINED, "Job")
    for name in cluster.job_runs:
        newer = cluster.objects["Job", name]["spec"]["template"]["spec"]
        assert {container["image"] for container in newer["containers"]} == {IMAGE}
        (trainer,), (same,) = newer["containers"], older[name]["spec"]["template"]["spec"]["containers"]
        for field in ("args", "command", "env", "envFrom", "volumeMounts"):
            assert trainer.get(field) == same.get(field), field


def test_a_clean_up_that_the_older_operator_began_ends_and_lets_the_model_go():
    cluster = FrozenCluster("deleting")
    (job,) = cluster.jobs("clean-up")
    cluster.settle()
    cluster.finish(job)
    cluster.settle()
    assert cluster.model is None
    assert cluster.created == []
