"""A model from apply to trained, and everything that can happen on the way, on a cluster of plain data."""

from __future__ import annotations

from unit.operator.reconciler.simulation import Cluster
from unit.operator.builders import task


def two(**spec):
    return Cluster(task("urgency"), task("intent"), **spec)


def test_a_model_is_looked_at_first_and_then_all_its_data_is_prepared_in_one_job():
    cluster = two()
    cluster.settle()
    (resolve,) = cluster.jobs()
    assert resolve.startswith("desk-resolve-")
    cluster.finish(resolve)
    cluster.settle()
    (prepare,) = cluster.jobs()
    assert prepare.startswith("desk-prepare-")
    assert cluster.condition("Progressing")["message"] == "At work: prepare/intent, prepare/urgency."


def test_it_ends_trained_and_then_nothing_is_written():
    cluster = two()
    cluster.to_the_end()
    ready = cluster.condition("Ready")
    assert (ready["status"], ready["reason"]) == ("False", "Trained")
    assert ready["message"].startswith("Revision 0123abcd is trained: 2/2 tasks qualify.")
    assert cluster.model["status"]["stage"] == "Trained"
    assert len(cluster.job_runs) == len(set(cluster.job_runs))
    written = cluster.written
    cluster.now += 10_000
    cluster.reconcile()
    assert cluster.written == written
