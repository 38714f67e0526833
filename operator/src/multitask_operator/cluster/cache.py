"""What the watches have shown of a cluster: answers as a `Client` does, and makes no request."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from multitask_api.cluster import MANAGED_BY, MANAGED_BY_LABEL, MODEL_LABEL
from multitask_api.resource.model import API_VERSION
from multitask_api.serving_io.task_names import NameClaim
from multitask_api.types import JsonObject
from multitask_kubernetes.errors import Forbidden, NotFound, Request
from multitask_kubernetes.kinds import rbac_resource
from multitask_kubernetes.reflector import Reflector, Source, explained
from multitask_kubernetes.store import Store, model_label, no_summary
from multitask_kubernetes.streams import StreamClient
from multitask_operator.cluster.observe import OPERATOR_CHILDREN, SERVING_CHILDREN, VIEWER_CHILDREN
from multitask_operator.reconciler.state.accessors import kind_label, true_condition
from multitask_operator.rollout import ROLLING

Kind = tuple[str, str]

MODEL: Kind = (API_VERSION, "MultiTaskModel")
JOB: Kind = ("batch/v1", "Job")
CONFIGMAP: Kind = ("v1", "ConfigMap")
PVC: Kind = ("v1", "PersistentVolumeClaim")
EVENT: Kind = ("v1", "Event")
TASK_ROUTE: Kind = (API_VERSION, "TaskRoute")

#: The ConfigMaps of everybody, without their content: a model may take prompts and labels from any of its namespace.
METADATA: Kind = ("meta.k8s.io/v1", "PartialObjectMetadata")

#: Watched where they carry our labels.
CHILDREN: Sequence[Kind] = tuple((VIEWER_CHILDREN | SERVING_CHILDREN | OPERATOR_CHILDREN).values())

_MANAGED = f"{MANAGED_BY_LABEL}={MANAGED_BY},{MODEL_LABEL}"

Changed = Callable[[Kind, JsonObject], None]
"""Called with the kind and an object of it that was created, changed or deleted."""


class Cache:
    """Of ``namespaces`` or, if there are none, of all. As the `Observer` of a client it knows what that has read or
    written before a watch shows it."""

    def __init__(self, namespaces: Sequence[str]) -> None:
        self._scopes = tuple(namespaces) or (None,)
        sources = [source for namespace in self._scopes for source in _sources(namespace)]
        # A list takes away what it does not have: so each source has a store of its own.
        self._stores = {(_key(source), source.namespace): _store_of(_key(source)) for source in sources}
        self._reflectors = [Reflector(source, self._stores[_key(source), source.namespace]) for source in sources]

    async def run(self, client: StreamClient, changed: Changed) -> None:
        """Keep it current until cancelled. ``changed`` is called after the cache has a change."""

        def source_changed(source: Source, item: JsonObject) -> None:
            changed(_key(source), item)

        async with asyncio.TaskGroup() as tasks:
            for reflector in self._reflectors:
                tasks.create_task(reflector.run(client, source_changed))

    async def settled(self) -> None:
        """Return once everything has been listed that may be."""
        for reflector in self._reflectors:
            await reflector.settled.wait()

    def faults(self) -> tuple[str, ...]:
        """Why something is not kept current, each reason once."""
        faults = [explained(each.fault, each.source) for each in self._reflectors if each.fault is not None]
        if not faults and not all(reflector.settled.is_set() for reflector in self._reflectors):
            faults = ["the watches have not begun"]
        return tuple(dict.fromkeys(faults))

    def refusal(self, namespace: str) -> Forbidden | None:
        """A permission that is missing to see all about the models of a namespace, and has been for a while."""
        refusals = (each.refusal() for each in self._reflectors_of(namespace))
        return next((refusal for refusal in refusals if refusal is not None), None)

    def sees_all(self, namespace: str) -> bool:
        """Whether nothing about the models of a namespace is refused now: else what exists may seem not to."""
        return not any(isinstance(each.fault, Forbidden) for each in self._reflectors_of(namespace))

    def _reflectors_of(self, namespace: str) -> Iterator[Reflector]:
        return (each for each in self._reflectors if each.source.namespace in (None, namespace))

    # -- as a client -----------------------------------------------------------------------------------------------

    async def get(self, api_version: str, kind: str, name: str, namespace: str | None = None) -> JsonObject:
        """As `Client.get`. Namespaces are not kept: every one is NotFound."""
        store = self._store((api_version, kind), namespace)
        item = store.get(namespace or "", name) if store is not None else None
        if item is None:
            request = Request("get", rbac_resource(api_version, kind), namespace, name)
            raise NotFound(f"{request}: no watch has shown it")
        return item

    async def list(
        self,
        api_version: str,
        kind: str,
        namespace: str | None = None,
        labels: str | None = None,
        fields: str | None = None,
    ) -> tuple[JsonObject, ...]:
        """As `Client.list`, in a namespace: the children of a model by its selector, or all objects of a kind."""
        store = self._store((api_version, kind), namespace)
        if store is None:
            return ()
        if labels is None:
            return store.of_namespace(namespace or "")
        return store.of_group(namespace or "", _model_of(labels))

    def has(self, kind: Kind, namespace: str, name: str) -> bool:
        """Whether there is such an object."""
        store = self._store(kind, namespace)
        return store is not None and store.has(namespace, name)

    def child(self, kind: str, namespace: str, name: str) -> JsonObject | None:
        """The child of a model of that kind (Job, Pod …) and name; None if there is none."""
        stores = (self._store(child, namespace) for child in CHILDREN if child[1] == kind)
        return next((store.get(namespace, name) for store in stores if store is not None), None)

    def counts(self, kind: Kind) -> Counter[tuple[str, ...]]:
        """Of models (namespace, state), of Jobs (namespace, kind of stage, state) → how many there are."""
        stores = (self._stores[kind, scope] for scope in self._scopes)
        return sum((store.summaries() for store in stores), Counter())

    def rolling_models(self) -> frozenset[str]:
        """The models, NAMESPACE/NAME, that have a rollout under way; one that waits for a person does not count."""
        counts = self.counts(TASK_ROUTE)
        return frozenset(f"{space}/{name}" for space, name, phase, *_ in counts if phase in ROLLING)

    def name_claims(self, namespace: str, name: str) -> tuple[NameClaim, ...]:
        """The tables of routes that have a task of the same name as one of the model's table, that one among them."""
        claims = [
            NameClaim(space, model, tuple(tasks), created, uid)
            for space, model, _, created, uid, *tasks in self.counts(TASK_ROUTE)
        ]
        own = {task for claim in claims if (claim.namespace, claim.model) == (namespace, name) for task in claim.tasks}
        return tuple(claim for claim in claims if not own.isdisjoint(claim.tasks))

    def newest_warning(self, namespace: str, uid: str) -> int | None:
        """The resource version of the newest Warning Event about an object; None: there is none."""
        store = self._store(EVENT, namespace)
        events = store.of_group(namespace, uid) if store is not None else ()
        versions = (int(item["metadata"]["resourceVersion"]) for item in events)
        return max(versions, default=None)

    def configmap_version(self, namespace: str, name: str) -> int | None:
        """The resource version of anybody's ConfigMap; None: there is none of that name."""
        store = self._store(METADATA, namespace)
        item = store.get(namespace, name) if store is not None else None
        return None if item is None else int(item["metadata"]["resourceVersion"])

    # -- as an observer --------------------------------------------------------------------------------------------

    def saw(self, item: JsonObject) -> None:
        """See `Observer`."""
        kind, namespace = (item["apiVersion"], item["kind"]), item["metadata"].get("namespace")
        if kind not in CHILDREN or _is_managed(item):
            self._put(kind, namespace, item)
        if kind == CONFIGMAP:
            self._put(METADATA, namespace, item)

    def saw_list(
        self, kind: Kind, namespace: str | None, labels: str | None, items: Sequence[JsonObject], version: str
    ) -> None:
        """See `Observer`."""
        store = self._store(kind, namespace)
        if store is not None and labels is not None and kind in CHILDREN:
            store.learn(namespace or "", _model_of(labels), items, version)

    def _put(self, kind: Kind, namespace: str | None, item: JsonObject) -> None:
        store = self._store(kind, namespace)
        if store is not None:
            store.put(item)

    def _store(self, kind: Kind, namespace: str | None) -> Store | None:
        """Where the objects of a kind in a namespace are; None if they are not watched."""
        return self._stores.get((kind, namespace)) or self._stores.get((kind, None))


def _key(source: Source) -> Kind:
    return METADATA if source.metadata_only else source.kind


def _store_of(kind: Kind) -> Store:
    if kind == PVC:
        return Store(_claim)
    if kind == METADATA:
        return Store(lambda item: {"metadata": _identity(item)}, lambda item: "")
    if kind == EVENT:
        return Store(_event, _about)
    return Store(summary=_SUMMARIES.get(kind, no_summary))


def _sources(namespace: str | None) -> Sequence[Source]:
    children = [Source(kind, namespace, labels=_MANAGED) for kind in CHILDREN]
    events = Source(EVENT, namespace, fields="type=Warning")
    metadata = Source(CONFIGMAP, namespace, metadata_only=True)
    return [Source(MODEL, namespace), *children, Source(PVC, namespace), events, metadata]


def _model_of(labels: str) -> str:
    """The model in a selector of `objects.names.selector`."""
    return dict(pair.split("=", 1) for pair in labels.split(","))[MODEL_LABEL]


def _is_managed(item: JsonObject) -> bool:
    labels = item["metadata"].get("labels") or {}
    return labels.get(MANAGED_BY_LABEL) == MANAGED_BY and model_label(item) != ""


def _identity(item: JsonObject) -> JsonObject:
    """Of the metadata what says which object this is, of which version, and that it is being deleted."""
    names = ("namespace", "name", "uid", "resourceVersion", "deletionTimestamp")
    return {name: item["metadata"][name] for name in names if name in item["metadata"]}


def _claim(item: JsonObject) -> JsonObject:
    """What decisions use of a PersistentVolumeClaim: there are many, and most belong to others."""
    spec, status = item.get("spec") or {}, item.get("status") or {}
    return {
        "apiVersion": item["apiVersion"],
        "kind": item["kind"],
        "metadata": _identity(item),
        "spec": {name: spec[name] for name in ("accessModes",) if name in spec},
        "status": {name: status[name] for name in ("phase", "accessModes") if name in status},
    }


def _event(item: JsonObject) -> JsonObject:
    """That there is a Warning, and about what; its text is read when it is needed."""
    about = item.get("involvedObject") or {}
    involved = {name: about[name] for name in ("kind", "name", "uid") if name in about}
    return {"metadata": _identity(item), "involvedObject": involved}


def _about(item: JsonObject) -> str:
    return str((item.get("involvedObject") or {}).get("uid", ""))


#: Values of the column Stage that are no stage but a state of the model.
_STATES = frozenset(
    {"Pending", "Blocked", "Suspended", "Failed", "Trained", "Serving", "RollingOut", "InvalidSpec", "CleaningUp"}
)


def _model_state(item: JsonObject) -> tuple[str, ...]:
    stage = str((item.get("status") or {}).get("stage", "Pending"))
    return (stage if stage in _STATES else "Training",)


def _job_state(item: JsonObject) -> tuple[str, ...]:
    if true_condition(item, "Complete"):
        state = "Succeeded"
    elif true_condition(item, "Failed"):
        state = "Failed"
    elif item.get("spec", {}).get("suspend"):
        state = "Suspended"
    else:
        state = "Running" if item.get("status", {}).get("ready") else "Pending"
    return (kind_label(item), state)


def _table(item: JsonObject) -> tuple[str, ...]:
    """Name, phase of the rollout, creation time, uid, and the names of its tasks."""
    metadata, rollout = item["metadata"], (item.get("status") or {}).get("rollout") or {}
    created = str(metadata.get("creationTimestamp") or "")
    return (metadata["name"], str(rollout.get("phase", "")), created, metadata["uid"], *routed_tasks(item))


def routed_tasks(item: JsonObject) -> tuple[str, ...]:
    """The names of a TaskRoute's tasks."""
    return tuple(str(task["name"]) for task in (item.get("spec") or {}).get("tasks") or ())


_SUMMARIES = {MODEL: _model_state, JOB: _job_state, TASK_ROUTE: _table}
