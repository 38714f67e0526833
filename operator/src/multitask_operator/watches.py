"""From a change that a watch has shown to the names of the models that it may concern."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from typing import Generic, TypeVar

from multitask_api.types import JsonObject
from multitask_kubernetes.store import model_label
from multitask_operator.cluster.cache import EVENT, METADATA, MODEL, PVC, TASK_ROUTE, Cache, Kind, routed_tasks
from multitask_operator.controller import NamespacedName
from multitask_operator.reconciler.state.cluster_state import named_pvc_names, referenced_configmap_names

Enqueue = Callable[[NamespacedName, float], None]
"""Called with a key and the seconds after which it is due."""

#: Changes of children come in bursts (our own writes among them): one reconcile for all of a burst.
DEBOUNCE_SECONDS = 0.2

#: Seconds between two models that are reconciled because a gateway is gone: it concerns all that have a table.
SPREAD_SECONDS = 0.01


K = TypeVar("K", bound=Hashable)


class Watches:
    """Call `changed` with what changed in ``cache``; ``enqueue`` gets every model that this may concern."""

    def __init__(self, cache: Cache, enqueue: Enqueue) -> None:
        self._cache = cache
        self._enqueue = enqueue
        self._users: dict[Kind, Index[tuple[str, str]]] = {PVC: Index(), METADATA: Index()}
        self._routed: Index[str] = Index()

    def changed(self, kind: Kind, item: JsonObject) -> None:
        """An object of ``kind`` was created, changed or deleted; the cache has it already."""
        metadata = item["metadata"]
        namespace = metadata.get("namespace", "")
        if kind == MODEL:
            key = NamespacedName(namespace, metadata["name"])
            is_there = self._cache.has(MODEL, namespace, metadata["name"])
            for used, names in ((PVC, named_pvc_names), (METADATA, referenced_configmap_names)):
                self._users[used].set(key, [(namespace, name) for name in names(item)] if is_there else ())
            self._enqueue(key, 0.0)
            return
        users = self._users.get(kind)
        models = self._model(kind, item) if users is None else users.of((namespace, metadata["name"]))
        for model in models:
            self._enqueue(model, DEBOUNCE_SECONDS)
        if kind == TASK_ROUTE:
            tasks = routed_tasks(item) if self._cache.has(kind, namespace, metadata["name"]) else ()
            for rival in self._rivals(NamespacedName(namespace, metadata["name"]), tasks):
                self._enqueue(rival, DEBOUNCE_SECONDS)

    def gateway_gone(self) -> None:
        """The pod of a gateway has ended: every table may have its acknowledgement."""
        tables = sorted({NamespacedName(space, name) for space, name, *_ in self._cache.counts(TASK_ROUTE)})
        for number, model in enumerate(tables):
            self._enqueue(model, DEBOUNCE_SECONDS + number * SPREAD_SECONDS)

    def _rivals(self, model: NamespacedName, tasks: Iterable[str]) -> list[NamespacedName]:
        """The models, in whatever namespace, that may get or lose a short name by the ``tasks`` of a table.

        A new table is the youngest and takes nothing from others.
        """
        before = self._routed.keys(model)
        self._routed.set(model, tasks)
        changed = before ^ self._routed.keys(model) if before else ()
        return sorted({rival for task in changed for rival in self._routed.of(task)} - {model})

    def _model(self, kind: Kind, item: JsonObject) -> Iterable[NamespacedName]:
        """The model that a child, or an Event about a child, belongs to."""
        if kind == EVENT:
            about = item.get("involvedObject") or {}
            child = self._cache.child(
                about.get("kind", ""), item["metadata"].get("namespace", ""), about.get("name", "")
            )
            name = model_label(child) if child is not None else ""
        else:
            name = model_label(item)
        return (NamespacedName(item["metadata"].get("namespace", ""), name),) if name else ()


class Index(Generic[K]):
    """Which models have a key: the claim or ConfigMap that they name, or the name of a task that their table has."""

    def __init__(self) -> None:
        self._keys: dict[NamespacedName, frozenset[K]] = {}
        self._models: defaultdict[K, set[NamespacedName]] = defaultdict(set)

    def set(self, model: NamespacedName, keys: Iterable[K]) -> None:
        """``keys`` are all that the model has now."""
        for key in self._keys.pop(model, ()):
            models = self._models[key]
            models.discard(model)
            if not models:
                del self._models[key]
        now = frozenset(keys)
        for key in now:
            self._models[key].add(model)
        if now:
            self._keys[model] = now

    def keys(self, model: NamespacedName) -> frozenset[K]:
        """All that the model has."""
        return self._keys.get(model, frozenset())

    def of(self, key: K) -> list[NamespacedName]:
        """The models that have it."""
        return sorted(self._models.get(key, ()))
