"""Who may write the report on which a rollout or a removal is decided: its own account, and no pod of training."""

from __future__ import annotations

import copy

import pytest

from multitask_api.cluster import GC, GC_ANNOTATION
from multitask_api.serving_io.verify import VERIFY_REVISION
from support.graph_builders import task
from support.simulated_servers import ServedCluster

STAGES, VERIFY, OWN_GC = "desk-stages", "desk-verify", "desk-gc"
KNOWN = {}


def being_verified():
    """A Job verifies the first revision."""
    if VERIFY not in KNOWN:
        KNOWN[VERIFY] = ServedCluster(task("urgency")).serve_until_verified()
    return copy.deepcopy(KNOWN[VERIFY])


def collecting():
    """A Job of ``mtm gc`` is about to run."""
    if OWN_GC not in KNOWN:
        cluster = ServedCluster(task("urgency"))
        cluster.serve()
        cluster.annotate(GC_ANNOTATION, "remove 2026-11-28T05:00:00Z")
        cluster.settle()
        KNOWN[OWN_GC] = cluster
    return copy.deepcopy(KNOWN[OWN_GC])


def subjects(cluster, name):
    return [each["name"] for each in cluster.objects["RoleBinding", name]["subjects"]]


def as_an_earlier_release_made_it(cluster, name, job=None):
    """One account for all: Role and Job are bound to that of the stages."""
    cluster.objects["RoleBinding", name]["subjects"][0]["name"] = STAGES
    cluster.objects.pop(("ServiceAccount", name), None)
    if job is not None:
        cluster.objects["Job", job]["spec"]["template"]["spec"]["serviceAccountName"] = STAGES


KINDS = {VERIFY: (being_verified, VERIFY_REVISION), OWN_GC: (collecting, GC)}


@pytest.mark.parametrize("name", KINDS)
def test_a_report_is_written_by_the_jobs_own_account_alone(name):
    make, kind = KINDS[name]
    cluster = make()
    (job,) = cluster.jobs(kind)
    assert cluster.objects["Job", job]["spec"]["template"]["spec"]["serviceAccountName"] == name
    assert cluster.writers(job) == {name}
    assert ("ServiceAccount", name) in cluster.objects


def test_no_other_job_may_write_the_report_of_one_of_its_kind():
    cluster = collecting()
    for kind, name in cluster.objects:
        if kind == "Job":
            cluster.check_access(name)


@pytest.mark.parametrize("name", KINDS)
def test_a_binding_of_an_earlier_release_is_put_right_although_nothing_runs(name):
    make, kind = KINDS[name]
    cluster = make()
    cluster.serve()
    as_an_earlier_release_made_it(cluster, name)
    cluster.settle()
    assert not cluster.jobs(kind)
    assert subjects(cluster, name) == [name]


@pytest.mark.parametrize("name", KINDS)
def test_a_job_of_an_earlier_release_still_reports_and_is_the_last_that_may(name):
    make, kind = KINDS[name]
    cluster = make()
    (job,) = cluster.jobs(kind)
    as_an_earlier_release_made_it(cluster, name, job)
    cluster.settle()
    assert cluster.jobs(kind) == [job]
    assert subjects(cluster, name) == sorted([STAGES, name])
    cluster.finish(job)
    cluster.settle()
    assert subjects(cluster, name) == [name]


def test_a_job_that_runs_as_the_account_of_an_earlier_spec_still_reports():
    cluster = being_verified()
    (job,) = cluster.jobs(VERIFY_REVISION)
    cluster.edit(task("urgency"), serviceAccountName="reader")
    cluster.settle()
    assert cluster.jobs(VERIFY_REVISION) == [job]
    assert cluster.writers(job) == {VERIFY, "reader"}


@pytest.mark.parametrize("name", KINDS)
def test_without_a_binding_none_is_made_before_it_is_needed(name):
    cluster = ServedCluster(task("urgency"))
    cluster.settle()
    assert ("RoleBinding", name) not in cluster.objects
    assert ("ServiceAccount", name) not in cluster.objects
