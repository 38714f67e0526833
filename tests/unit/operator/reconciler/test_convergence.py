"""Whatever happens in between, the same end: no stage run twice, no Job too many, and then rest."""

from __future__ import annotations

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from support.graph_builders import task
from support.simulation import REMOVED, STORAGE, Cluster


def cluster_of_two(**spec):
    return Cluster(task("urgency"), task("intent"), **spec)


def end_state(cluster):
    """What must be the same after every history: who is there, and what the status says, but for times."""
    status = cluster.model["status"]
    kept = {name: status[name] for name in ("stage", "progress", "qualified", "revision", "tasks", "stages")}
    reasons = {(item["type"], item["status"], item["reason"]) for item in status["conditions"]}
    return set(cluster.objects), kept, reasons


@pytest.fixture(scope="module")
def expected():
    cluster = cluster_of_two()
    cluster.to_the_end()
    return end_state(cluster), sorted(cluster.job_runs)


@pytest.mark.parametrize("actions", [1, 2, 3])
def test_an_operator_that_is_killed_after_a_few_writes_each_time_comes_to_the_same_end(actions, expected):
    cluster = cluster_of_two()
    cluster.to_the_end_though_killed(actions, limit=200)
    assert (end_state(cluster), sorted(cluster.job_runs)) == expected


HAPPENINGS = st.lists(
    st.tuples(
        st.sampled_from(["reconcile", "killed", "stale", "finish", "delete", "evict"]),
        st.integers(min_value=0, max_value=9),
    ),
    max_size=40,
)


# Without shrinking: the shortest history that fails would take minutes to find, and the one found says enough.
@settings(max_examples=25, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(history=HAPPENINGS)
def test_any_history_comes_to_the_same_end(history, expected):
    cluster = cluster_of_two()
    seen = [cluster.observe()]
    by_hand = False
    for what, number in history:
        seen.append(cluster.observe())
        jobs = cluster.jobs()
        if what == "reconcile":
            cluster.reconcile()
        elif what == "killed":
            cluster.reconcile(actions=number)
        elif what == "stale":  # another operator, or a look that is out of date
            cluster.reconcile(seen[-1 - number % min(len(seen), 4)])
        elif what == "finish" and jobs:
            cluster.finish(jobs[number % len(jobs)])
        elif what == "delete" and jobs:
            by_hand = True
            del cluster.objects["Job", jobs[number % len(jobs)]]
        elif what == "evict" and cluster.objects:
            by_hand = True
            del cluster.objects[sorted(cluster.objects)[number % len(cluster.objects)]]
    cluster.to_the_end()
    objects, status, reasons = end_state(cluster)
    (objects_expected, status_expected, reasons_expected), runs_expected = expected
    assert (status, reasons) == (status_expected, reasons_expected)
    if not by_hand:
        assert objects == objects_expected
        assert sorted(cluster.job_runs) == runs_expected
    # Rest: nothing is written any more, however often it is looked at.
    written = cluster.written
    cluster.now += 86_400
    cluster.reconcile()
    assert cluster.written == written


DELETION = st.lists(
    st.tuples(
        st.sampled_from(["reconcile", "killed", "stale", "finish", "delete", "edit", "deletion"]),
        st.integers(min_value=0, max_value=9),
    ),
    min_size=5,
    max_size=40,
)


@settings(max_examples=20, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(history=DELETION, jobs_before=st.integers(min_value=0, max_value=12))
def test_after_any_history_a_deletion_ends_and_leaves_nothing(history, jobs_before):
    cluster = cluster_of_two(storage=REMOVED)
    for _ in range(jobs_before):
        cluster.settle()
        if cluster.jobs():
            cluster.finish(cluster.jobs()[0])
    seen = [cluster.observe()]
    for what, number in (*history, ("reconcile", 0), ("deletion", 0)):
        seen.append(cluster.observe())
        jobs = cluster.jobs()
        if what == "reconcile":
            cluster.reconcile()
        elif what == "killed":
            cluster.reconcile(actions=number)
        elif what == "stale":
            cluster.reconcile(seen[-1 - number % min(len(seen), 4)])
        elif what == "finish" and jobs:
            cluster.finish(jobs[number % len(jobs)])
        elif what == "delete" and jobs:
            del cluster.objects["Job", jobs[number % len(jobs)]]
        elif what == "edit" and cluster.model is not None:
            cluster.edit(task("urgency"), task("intent"), storage=REMOVED if number < 7 else STORAGE)
        elif what == "deletion" and cluster.model is not None and not cluster.is_being_deleted:
            cluster.delete()
    retained = cluster.model is not None and cluster.model["spec"]["storage"].get("retain", True)
    exists = cluster.model is not None
    cluster.to_the_end()
    assert cluster.model is None
    assert cluster.objects == {}
    if exists and not retained:
        assert cluster.stored == set()


@pytest.mark.parametrize("actions", [1, 2, 3])
@pytest.mark.parametrize("kind", ["resolve", "prepare", "baseline", "mixture", None])
def test_a_deletion_by_an_operator_that_is_killed_after_a_few_writes_each_time_ends_too(kind, actions):
    cluster = cluster_of_two(storage=REMOVED)
    cluster.settle()
    while cluster.jobs() and not (kind and cluster.jobs(kind)):
        cluster.finish(cluster.jobs()[0])
        cluster.settle()
    cluster.delete()
    for _ in range(100):
        before = cluster.written
        cluster.reconcile(actions=actions)
        if cluster.written == before and cluster.jobs():
            assert [name for name in cluster.jobs() if "-clean-up-" not in name] == []
            cluster.finish(cluster.jobs()[0])
    assert (cluster.model, cluster.objects, cluster.stored) == (None, {}, set())
    assert sum("-clean-up-" in name for name in cluster.job_runs) == 1
