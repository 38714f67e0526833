"""Gateways come and go: their entries in the table's status, and what Ready says of them."""

from __future__ import annotations

import copy

import pytest

from multitask_operator.reconciler.state.accessors import format_time
from support.graph_builders import task
from support.simulated_servers import ServedCluster

_KNOWN: list[ServedCluster] = []


def served():
    if not _KNOWN:
        cluster = ServedCluster(task("urgency"))
        cluster.serve()
        _KNOWN.append(cluster)
    return copy.deepcopy(_KNOWN[0])


def entries(cluster):
    return {each["name"] for each in cluster.route["status"].get("gateways", ())}


def acknowledge(cluster, *names):
    """Gateways of an earlier time have said what they followed."""
    acks = [{"name": name, "observedGeneration": 1, "time": format_time(cluster.now)} for name in names]
    status = cluster.route["status"]
    cluster.route["status"] = status | {"gateways": [*status.get("gateways", ()), *acks]}
    cluster._touch(cluster.route)


BOTH = {"gateway-a", "gateway-b"}
#: the gateways that run, those that do not answer, who has an entry afterwards, and what Ready says
WORLDS = {
    "both run": (("gateway-a", "gateway-b"), (), BOTH, ("True", "Serving", "2 gateways")),
    "one is gone": (("gateway-a",), (), {"gateway-a"}, ("True", "Serving", "1 gateway.")),
    "one was replaced": (("gateway-a", "gateway-c"), (), {"gateway-a", "gateway-c"}, ("True", "Serving", "2 gateways")),
    "all were replaced": (("gateway-c",), (), {"gateway-c"}, ("True", "Serving", "1 gateway.")),
    "one cannot be reached": (("gateway-a",), ("gateway-b",), BOTH, ("True", "Serving", "2 gateways")),
    "none can be reached": ((), ("gateway-a", "gateway-b"), BOTH, ("True", "Serving", "2 gateways")),
    "all are gone": ((), (), set(), ("False", "NoGatewayPods", "Deployment")),
    "none of the new ones follows yet": ((), ("gateway-c",), set(), ("False", "GatewaysBehind", "no gateway follows")),
}


@pytest.mark.parametrize("sentence", WORLDS)
@pytest.mark.parametrize("earlier", [0, 1, 62])
def test_entries_of_gateways_that_are_gone_are_removed(sentence, earlier):
    running, unreachable, expected, (status, reason, words) = WORLDS[sentence]
    cluster = served()
    acknowledge(cluster, *(f"earlier-{number}" for number in range(earlier)))
    cluster.gateways, cluster.unreachable = running, unreachable
    cluster.serve()
    assert entries(cluster) == expected
    ready = cluster.condition("Ready")
    assert (ready["status"], ready["reason"]) == (status, reason)
    assert words in ready["message"]


def test_nothing_else_of_an_entry_or_of_the_status_changes():
    cluster = served()
    before = copy.deepcopy(cluster.route["status"])
    acknowledge(cluster, "earlier")
    cluster.route["status"]["gateways"][0]["colour"] = "blue"  # a newer gateway says more
    cluster.serve()
    before["gateways"][0]["colour"] = "blue"
    assert cluster.route["status"] == before


def test_while_the_pods_are_not_known_nothing_is_removed_and_all_count():
    cluster = served()
    acknowledge(cluster, "earlier")
    cluster.gateway_states = None
    cluster.gateways = ()
    cluster.settle()
    assert entries(cluster) == {*BOTH, "earlier"}
    assert "3 gateways" in cluster.condition("Ready")["message"]
