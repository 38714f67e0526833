"""A local copy of a collection of objects, kept current by list and watch, as client-go's informers do."""

from __future__ import annotations

import json
import threading
from types import TracebackType
from typing import Any, Self

import httpx

from devcluster.cluster_client import ClusterClient, Object


class Informer:
    """Follows the collection at ``path`` (of all namespaces) in a thread while entered; reads make no request."""

    def __init__(self, client: ClusterClient, path: str) -> None:
        self._rest = client.rest()
        self._path = path
        self._objects: dict[tuple[str, str], Object] = {}
        self._stopping = threading.Event()
        self._listed = threading.Event()

    def __enter__(self) -> Self:
        threading.Thread(target=self._follow, name=f"informer of {self._path}", daemon=True).start()
        assert self._listed.wait(60), f"{self._path} was not listed"
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._stopping.set()
        self._rest.close()

    def get(self, namespace: str, name: str) -> Object | None:
        """The object, or None."""
        return self._objects.get((namespace, name))

    def list_in(self, namespace: str) -> list[Object]:
        """The objects of a namespace, sorted by name."""
        return [
            item for (item_namespace, _), item in sorted(self._objects.copy().items()) if item_namespace == namespace
        ]

    def _follow(self) -> None:
        while not self._stopping.is_set():
            try:
                parameters = {"watch": "true", "resourceVersion": self._list()}
                with self._rest.stream("GET", self._path, params=parameters, timeout=None) as answer:
                    for line in answer.iter_lines():
                        if not self._apply_event(json.loads(line)):
                            break
            except (httpx.HTTPError, httpx.StreamError, OSError, RuntimeError):
                self._stopping.wait(0.2)  # the server is away, or this informer is being closed

    def _list(self) -> str:
        listing: Any = self._rest.get(self._path).raise_for_status().json()
        self._objects = {_key(item): item for item in listing["items"]}
        self._listed.set()
        version: str = listing["metadata"]["resourceVersion"]
        return version

    def _apply_event(self, event: Object) -> bool:
        """Apply a watch event; False when the watch has expired and a new list is needed."""
        item = event["object"]
        if event["type"] == "ERROR":
            return False
        if event["type"] == "DELETED":
            self._objects.pop(_key(item), None)
        else:
            self._objects[_key(item)] = item
        return True


def _key(item: Object) -> tuple[str, str]:
    return item["metadata"].get("namespace", ""), item["metadata"]["name"]
