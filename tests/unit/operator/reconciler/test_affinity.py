"""Groups that a stage finds: any history comes to the same end, and nothing of a group is lost while they are open."""

from __future__ import annotations

import pytest

from multitask_api.cluster import GC_ANNOTATION, KIND_LABEL
from multitask_operator.reconciler.state.model_state import ModelState
from support.graph_builders import task
from support.simulation import Cluster, run_until

URGENCY, INTENT, ESCALATE = task("urgency"), task("intent"), task("escalate")
FILTERING = {"strategy": "Affinity", "diagnosis": {"check": True}}


def cluster_of(*tasks, **spec):
    """The gradients of ``escalate`` oppose those of ``urgency``."""
    return Cluster(*(tasks or (URGENCY, INTENT, ESCALATE)), filtering=FILTERING, **spec)


def graph_of(cluster):
    return ModelState.of(cluster.observe(), cluster.now).plan.graph


def kinds(cluster):
    return {item["metadata"]["labels"][KIND_LABEL] for (sort, _), item in cluster.objects.items() if sort == "Job"}


def end_state(cluster):
    status = cluster.model["status"]
    return set(cluster.objects), {name: status[name] for name in ("stage", "progress", "qualified", "tasks", "stages")}


@pytest.fixture(scope="module")
def expected():
    cluster = cluster_of()
    cluster.to_the_end()
    return end_state(cluster), sorted(cluster.job_runs)


def test_every_task_has_a_job_for_its_gradients_and_the_groups_follow(expected):
    (objects, status), _ = expected
    jobs = [name for sort, name in objects if sort == "Job"]
    assert len([name for name in jobs if "-gradients-" in name]) == 3
    assert len([name for name in jobs if "-affinity-" in name]) == 1
    assert [row["group"] for row in status["tasks"]] == [
        "classification",
        "classification",
        "classification-escalate",
    ]
    assert len(status["stages"]) <= 12


@pytest.mark.parametrize("actions", [1, 2, 3])
def test_an_operator_that_is_killed_after_a_few_writes_each_time_comes_to_the_same_end(actions, expected):
    cluster = cluster_of()
    cluster.to_the_end_though_killed(actions, limit=300)
    assert (end_state(cluster), sorted(cluster.job_runs)) == expected


def test_a_look_that_is_out_of_date_starts_nothing_twice(expected):
    cluster = cluster_of()
    seen = [cluster.observe()]
    for turn in range(300):
        seen.append(cluster.observe())
        cluster.reconcile(seen[-1 - turn % min(len(seen), 3)])
        if turn % 4 == 3 and cluster.jobs():
            cluster.finish(cluster.jobs()[-1])
    cluster.to_the_end()
    assert (end_state(cluster), sorted(cluster.job_runs)) == expected


def test_no_task_has_a_group_before_they_are_known():
    cluster = cluster_of()
    run_until(cluster, "affinity")
    assert graph_of(cluster).groups == {}
    assert all("group" not in row for row in cluster.model["status"]["tasks"])
    assert not kinds(cluster) & {"filter", "mixture", "evaluate"}


def test_a_mixture_goes_on_while_the_gradients_of_a_new_task_are_taken():
    cluster = cluster_of(URGENCY, INTENT)
    run_until(cluster, "mixture")
    mixture = cluster.jobs("mixture")
    cluster.edit(URGENCY, INTENT, ESCALATE, filtering=FILTERING)
    cluster.settle()
    cluster.finish(next(name for name in cluster.jobs() if name not in mixture))  # resolve
    cluster.settle()
    assert graph_of(cluster).groups == {}
    assert cluster.jobs("mixture") == mixture


def test_a_new_task_takes_only_its_own_gradients():
    cluster = cluster_of(URGENCY, INTENT)
    cluster.to_the_end()
    before = set(cluster.job_runs)
    cluster.edit(URGENCY, INTENT, ESCALATE, filtering=FILTERING)
    cluster.to_the_end()
    ran = {name for name in cluster.job_runs if name not in before}
    assert len([name for name in ran if "-gradients-" in name]) == 1
    assert not [name for name in ran if "-base-" in name]


def test_nothing_is_collected_while_the_groups_are_open():
    cluster = cluster_of(URGENCY, INTENT)
    cluster.to_the_end()
    stored = set(cluster.stored)
    cluster.edit(URGENCY, INTENT, ESCALATE, filtering=FILTERING, suspend=True)
    cluster.settle()
    cluster.annotate(GC_ANNOTATION, "remove 2026-11-28T05:00:00Z")
    cluster.to_the_end()
    assert cluster.stored == stored


class Below(Cluster):
    """``urgency`` does not qualify; its gradients and those of ``intent`` oppose each other a little."""

    def _manifest(self, name, order):
        manifest = super()._manifest(name, order)
        for verdict in manifest.result["tasks"] if manifest.kind == "evaluate" else ():
            if verdict["task"] == "urgency":
                verdict |= {"verdict": "NotQualified", "ratio": 0.9}
        return manifest


def test_a_task_below_the_threshold_is_checked_in_a_job_of_its_own():
    cluster = Below(URGENCY, INTENT, ESCALATE, filtering=FILTERING)
    cluster.to_the_end()
    (check,) = cluster.jobs("check", open_only=False)
    graph = graph_of(cluster)
    assert check.endswith(graph["check/urgency"].digest[:8])
    assert graph["check/urgency"].parameters.without == ("intent",)
    assert graph["check/intent"].reason == "intent: it reaches the threshold"
    assert len(cluster.model["status"]["stages"]) == 12


def test_without_diagnosis_check_there_are_no_such_jobs():
    cluster = Below(URGENCY, INTENT, ESCALATE, filtering={"strategy": "Affinity"})
    cluster.to_the_end()
    assert cluster.jobs("check", open_only=False) == []
    assert not graph_of(cluster).of_kind("check")
