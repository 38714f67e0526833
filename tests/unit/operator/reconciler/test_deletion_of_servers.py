"""A model that is served and does not retain its artifacts: its servers end before what they read is removed."""

from __future__ import annotations

import pytest

from support.graph_builders import task
from support.simulated_servers import ServedCluster
from support.simulation import REMOVED


def deleted(replicas):
    cluster = ServedCluster(task("urgency"), storage=REMOVED, serving={"replicas": replicas})
    cluster.serve()
    cluster.delete()
    return cluster


@pytest.mark.parametrize("replicas", [1, 3])
def test_servers_end_before_the_clean_up_begins(replicas):
    cluster = deleted(replicas)
    stored = set(cluster.stored)
    cluster.settle()
    assert not cluster.deployments()
    assert not cluster.jobs(), "pods of the servers are still there"
    assert cluster.stored == stored
    assert "desk-serve-" in cluster.condition("Ready")["message"]

    cluster.run_servers()
    cluster.settle()
    (clean_up,) = cluster.jobs()
    assert "-clean-up-" in clean_up
    cluster.finish(clean_up)
    cluster.settle()
    assert cluster.model is None


def test_a_model_that_retains_its_artifacts_goes_with_its_servers():
    cluster = ServedCluster(task("urgency"))
    cluster.serve()
    cluster.delete()
    cluster.settle()
    assert cluster.model is None
    assert not cluster.objects
