"""Which pods of gateways exist, by a watch of their namespace."""

from __future__ import annotations

from collections.abc import Callable

from multitask_api.types import JsonObject
from multitask_kubernetes.reflector import Reflector, Source, explained
from multitask_kubernetes.store import Store
from multitask_kubernetes.streams import StreamClient
from multitask_operator.reconciler.state.accessors import has_ended


class GatewayPods:
    """The pods that ``selector`` finds in ``namespace``; empty: there are none. A pod that cannot be reached exists
    nevertheless."""

    def __init__(self, namespace: str, selector: str) -> None:
        self._namespace = namespace
        self._store = Store(_kept, lambda _: "")
        self._reflector = Reflector(Source(("v1", "Pod"), namespace, labels=selector), self._store)

    async def run(self, client: StreamClient, gone: Callable[[], None]) -> None:
        """Keep it current until cancelled. ``gone`` is called after a pod has ended or was deleted."""
        if not self._namespace:
            return

        def changed(_: Source, item: JsonObject) -> None:
            if item["metadata"]["name"] not in self._names():
                gone()

        await self._reflector.run(client, changed)

    def names(self) -> frozenset[str] | None:
        """Those that have not ended; None while they may not be watched, or have not been listed."""
        is_current = self._reflector.settled.is_set() and self._reflector.fault is None
        return self._names() if is_current else None

    def faults(self) -> tuple[str, ...]:
        """Why it is not kept current, if it is not."""
        fault = self._reflector.fault
        return () if fault is None else (explained(fault, self._reflector.source),)

    def _names(self) -> frozenset[str]:
        return names_of(self._store.of_namespace(self._namespace))


def names_of(pods: tuple[JsonObject, ...]) -> frozenset[str]:
    """The names of those that have not ended."""
    return frozenset(pod["metadata"]["name"] for pod in pods if not has_ended(pod))


def _kept(pod: JsonObject) -> JsonObject:
    metadata = {name: pod["metadata"][name] for name in ("namespace", "name", "uid", "resourceVersion")}
    return {"metadata": metadata, "status": {"phase": (pod.get("status") or {}).get("phase")}}
