"""Which pods of a Service may get requests, from its EndpointSlices. Pure.

The rules are those of Kubernetes (KEP-1672) and of kube-proxy: pods that are ready get requests; if there are none,
pods that are ending and still serve.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from multitask_api.types import JsonObject

SERVICE_LABEL = "kubernetes.io/service-name"
PORT_NAME = "grpc"
"""Of the Service's port, where a backend's number is none of the pods' ports."""

_FAMILIES = ("IPv4", "IPv6", "FQDN")
"""A pod may have an address of each, in a slice of each: the first one is used."""


def service_of(item: JsonObject) -> str:
    """The name of the Service that a slice is of."""
    return str((item["metadata"].get("labels") or {}).get(SERVICE_LABEL, ""))


def without_details(item: JsonObject) -> JsonObject:
    """What this module reads of a slice."""
    names = ("namespace", "name", "uid", "resourceVersion")
    metadata = {name: item["metadata"][name] for name in names if name in item["metadata"]}
    endpoints = [
        {name: each[name] for name in ("addresses", "conditions", "targetRef") if each.get(name)}
        for each in item.get("endpoints") or ()
    ]
    return {
        "metadata": metadata | {"labels": {SERVICE_LABEL: service_of(item)}},
        "addressType": item.get("addressType"),
        "ports": item.get("ports") or [],
        "endpoints": endpoints,
    }


def addresses(slices: Iterable[JsonObject], port: int) -> tuple[str, ...]:
    """The servers as host:port, sorted; ``port`` is the backend's. One for each pod."""
    ready: dict[str, str] = {}
    ending: dict[str, str] = {}
    ordered = sorted(
        (item for item in slices if item.get("addressType") in _FAMILIES),
        key=lambda item: _FAMILIES.index(item["addressType"]),
    )
    for item in ordered:
        number = _port(item.get("ports") or (), port)
        if number is None:
            continue
        for endpoint in item.get("endpoints") or ():
            known = _pool(endpoint, ready, ending)
            hosts = endpoint.get("addresses") or ()
            if known is not None and hosts:  # all addresses of an endpoint are the same pod
                host = f"[{hosts[0]}]" if item["addressType"] == "IPv6" else hosts[0]
                address = f"{host}:{number}"
                known.setdefault(str((endpoint.get("targetRef") or {}).get("uid") or address), address)
    return tuple(sorted((ready or ending).values()))


def _pool(endpoint: JsonObject, ready: dict[str, str], ending: dict[str, str]) -> dict[str, str] | None:
    """Where an endpoint belongs; None: it gets nothing. A condition that is not known is to be taken for good."""
    conditions = endpoint.get("conditions") or {}
    is_ready, serving, terminating = (conditions.get(name) for name in ("ready", "serving", "terminating"))
    if is_ready is None or is_ready:
        return ready
    return ending if terminating and (serving is None or serving) else None


def _port(ports: Sequence[JsonObject], wanted: int) -> int | None:
    """The pods' port: the one of that number, the one named ``grpc`` (the Service's number is another one then), or the
    only one. A Service without ports leaves the number as it is."""
    tcp = [port for port in ports if port.get("protocol", "TCP") == "TCP" and port.get("port") is not None]
    if not ports:
        return wanted
    numbers = [int(port["port"]) for port in tcp]
    if wanted in numbers:
        return wanted
    named = [int(port["port"]) for port in tcp if port.get("name") == PORT_NAME]
    if named:
        return named[0]
    return numbers[0] if len(numbers) == 1 else None
