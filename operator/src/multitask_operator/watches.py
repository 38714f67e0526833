"""From a change that a watch has shown to the names of the models that it may concern."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable

from multitask_api.types import JsonObject
from multitask_kubernetes.store import model_label
from multitask_operator.cluster.cache import EVENT, METADATA, MODEL, PVC, TASK_ROUTE, Cache, Kind, routed_tasks
from multitask_operator.controller import NamespacedName
from multitask_operator.reconciler.state.cluster_state import named_pvc_names, referenced_configmap_names

Enqueue = Callable[[NamespacedName, float], None]
"""Called with a key and the seconds after which it is due."""

#: Changes of children come in bursts (our own writes among them): one reconcile for all of a burst.
DEBOUNCE_SECONDS = 0.2


class Watches:
    """Call `changed` with what changed in ``cache``; ``enqueue`` gets every model that this may concern."""

    def __init__(self, cache: Cache, enqueue: Enqueue) -> None:
        self._cache = cache
        self._enqueue = enqueue
        self._users = {PVC: Users(), METADATA: Users()}
        self._claimants = Claimants()

    def changed(self, kind: Kind, item: JsonObject) -> None:
        """An object of ``kind`` was created, changed or deleted; the cache has it already."""
        metadata = item["metadata"]
        namespace = metadata.get("namespace", "")
        if kind == MODEL:
            key = NamespacedName(namespace, metadata["name"])
            is_there = self._cache.has(MODEL, namespace, metadata["name"])
            self._users[PVC].set(key, named_pvc_names(item) if is_there else ())
            self._users[METADATA].set(key, referenced_configmap_names(item) if is_there else ())
            self._enqueue(key, 0.0)
            return
        users = self._users.get(kind)
        names = self._model(kind, item) if users is None else users.of(namespace, metadata["name"])
        for name in names:
            self._enqueue(NamespacedName(namespace, name), DEBOUNCE_SECONDS)
        if kind == TASK_ROUTE:
            tasks = routed_tasks(item) if self._cache.has(kind, namespace, metadata["name"]) else ()
            for rival in sorted(self._claimants.set(NamespacedName(namespace, metadata["name"]), tasks)):
                self._enqueue(rival, DEBOUNCE_SECONDS)

    def _model(self, kind: Kind, item: JsonObject) -> Iterable[str]:
        """The model that a child, or an Event about a child, belongs to."""
        if kind == EVENT:
            about = item.get("involvedObject") or {}
            child = self._cache.child(
                about.get("kind", ""), item["metadata"].get("namespace", ""), about.get("name", "")
            )
            name = model_label(child) if child is not None else ""
        else:
            name = model_label(item)
        return (name,) if name else ()


class Users:
    """Which models name a name, or a ConfigMap."""

    def __init__(self) -> None:
        self._names: dict[NamespacedName, tuple[str, ...]] = {}
        self._models: defaultdict[tuple[str, str], set[str]] = defaultdict(set)

    def set(self, model: NamespacedName, names: Iterable[str]) -> None:
        """``names`` are all that the model names now."""
        for name in self._names.pop(model, ()):
            users = self._models[model.namespace, name]
            users.discard(model.name)
            if not users:
                del self._models[model.namespace, name]
        self._names[model] = tuple(names)
        for name in self._names[model]:
            self._models[model.namespace, name].add(model.name)
        if not self._names[model]:
            del self._names[model]

    def of(self, namespace: str, name: str) -> tuple[str, ...]:
        """The models that name it."""
        return tuple(sorted(self._models.get((namespace, name), ())))


class Claimants:
    """Which tables of routes have a task of a name, in whatever namespace: one of them has its short name."""

    def __init__(self) -> None:
        self._tasks: dict[NamespacedName, frozenset[str]] = {}
        self._models: defaultdict[str, set[NamespacedName]] = defaultdict(set)

    def set(self, model: NamespacedName, tasks: Iterable[str]) -> frozenset[NamespacedName]:
        """``tasks`` are all that the model's table has now. Gives the models that may get or lose a name by that.

        A new table is the youngest and takes nothing from others.
        """
        is_new, before, after = model not in self._tasks, self._tasks.pop(model, frozenset()), frozenset(tasks)
        for task in before - after:
            self._models[task].discard(model)
            if not self._models[task]:
                del self._models[task]
        for task in after - before:
            self._models[task].add(model)
        if after:
            self._tasks[model] = after
        changed = () if is_new else before ^ after
        return frozenset(rival for task in changed for rival in self._models.get(task, ())) - {model}
