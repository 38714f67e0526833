"""Which pods get requests, from EndpointSlices."""

from __future__ import annotations

import itertools

import pytest

from multitask_serving.gateway.cluster.slices import addresses, service_of, without_details

GRPC = {"name": "grpc", "port": 8001, "protocol": "TCP"}
ENDING = {"ready": False, "serving": True, "terminating": True}
GONE = {"ready": False, "serving": False, "terminating": True}
STARTING = {"ready": False, "serving": False, "terminating": False}


def pod(*hosts: str, uid: str = "", **conditions: bool | None):
    endpoint = {"addresses": list(hosts), "conditions": conditions}
    return endpoint | ({"targetRef": {"kind": "Pod", "uid": uid}} if uid else {})


def item(*endpoints, family: str = "IPv4", ports=(GRPC,), **metadata):
    labels = {"kubernetes.io/service-name": "desk-serve-1", "multitask.dev/model": "desk"}
    meta = {"namespace": "team", "name": "s", "uid": "u", "resourceVersion": "1", "labels": labels, **metadata}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": meta,
        "addressType": family,
        "ports": list(ports),
        "endpoints": list(endpoints),
    }


# the sentence, the slices, the addresses
CASES = [
    ("ready pods", [item(pod("10.0.0.2", ready=True), pod("10.0.0.1", ready=True))],
     ["10.0.0.1:8001", "10.0.0.2:8001"]),
    ("of all slices", [item(pod("10.0.0.1", ready=True)), item(pod("10.0.0.2", ready=True))],
     ["10.0.0.1:8001", "10.0.0.2:8001"]),
    ("a condition that is not known is taken for good", [item(pod("10.0.0.1", ready=None)), item(pod("10.0.0.2"))],
     ["10.0.0.1:8001", "10.0.0.2:8001"]),
    ("not those that start", [item(pod("10.0.0.1", ready=True), pod("10.0.0.2", **STARTING))], ["10.0.0.1:8001"]),
    ("nor those that end", [item(pod("10.0.0.1", ready=True), pod("10.0.0.2", **ENDING))], ["10.0.0.1:8001"]),
    ("unless all end", [item(pod("10.0.0.1", **ENDING), pod("10.0.0.2", **GONE))], ["10.0.0.1:8001"]),
    ("and never those that do not serve", [item(pod("10.0.0.1", **GONE), pod("10.0.0.2", **STARTING))], []),
    ("an ending pod of an older cluster, which does not know serving",
     [item(pod("10.0.0.1", ready=False, terminating=True))], ["10.0.0.1:8001"]),
    ("IPv6 in brackets", [item(pod("fd00::1", ready=True), family="IPv6")], ["[fd00::1]:8001"]),
    ("a pod with both families is one pod", [item(pod("fd00::1", uid="p", ready=True), family="IPv6"),
                                             item(pod("10.0.0.1", uid="p", ready=True))], ["10.0.0.1:8001"]),
    ("names, where a slice has them", [item(pod("a.example", ready=True), family="FQDN")], ["a.example:8001"]),
    ("not what a newer cluster may add", [item(pod("x", ready=True), family="Unix")], []),
    ("several addresses are one pod", [item(pod("10.0.0.1", "10.0.0.9", ready=True))], ["10.0.0.1:8001"]),
    ("no endpoints at all", [item(), {**item(), "endpoints": None}], []),
]  # fmt: skip


@pytest.mark.parametrize(("slices", "expected"), [row[1:] for row in CASES], ids=[row[0] for row in CASES])
def test_pods_that_get_requests(slices, expected):
    for order in itertools.permutations(slices):
        assert list(addresses(order, 8001)) == expected
        assert list(addresses(map(without_details, order), 8001)) == expected


PORTS = [
    ("by its number", (GRPC, {"name": "probes", "port": 8080}), 8001),
    ("by its number, whatever its name", ({"name": "a", "port": 9000}, {"name": "b", "port": 8001}), 8001),
    ("by its name if the Service maps another number to it", ({"name": "grpc", "port": 9000}, {"port": 1}), 9000),
    ("the only one", ({"name": "", "port": 9000},), 9000),
    ("none of several without the name", ({"name": "a", "port": 9000}, {"name": "b", "port": 9001}), None),
    ("not by UDP", ({"name": "grpc", "port": 8001, "protocol": "UDP"}, {"name": "x", "port": 9}), 9),
    ("as it is, if the Service has no ports", (), 8001),
]


@pytest.mark.parametrize(("ports", "expected"), [row[1:] for row in PORTS], ids=[row[0] for row in PORTS])
def test_the_port_is_found(ports, expected):
    found = addresses([item(pod("10.0.0.1", ready=True), ports=ports)], 8001)
    assert found == ((f"10.0.0.1:{expected}",) if expected else ())


def test_each_slice_may_have_another_port():
    other = ({"name": "grpc", "port": 9001},)
    slices = [item(pod("10.0.0.1", ready=True)), item(pod("10.0.0.1", ready=True), ports=other)]
    assert addresses(slices, 8001) == ("10.0.0.1:8001", "10.0.0.1:9001")


def test_the_service_is_in_the_label():
    assert service_of(item()) == service_of(without_details(item())) == "desk-serve-1"
    assert service_of({"metadata": {}}) == ""
