"""A cluster as plain data: what decisions do to it, and what Jobs and users do meanwhile. No clock, no server."""

from __future__ import annotations

import json
import pickle

from multitask_api.cluster import (
    CLEAN_UP,
    CLEAN_UP_RESULT_KEY,
    GC,
    GC_KEY,
    GC_RESULT_KEY,
    KIND_LABEL,
    ORDERS_KEY,
    RESOLVE,
    RESOLVED_KEY,
    CleanUpResult,
    GarbageOrder,
    GarbageResult,
    UnusedResult,
)
from multitask_api.stage_io.manifest import Manifest
from multitask_api.stage_io.packing import manifest_key, pack_manifest
from multitask_api.stages.versions import VERSIONS
from multitask_operator.objects.names import access_name
from multitask_operator.reconciler import Result, reconcile
from multitask_operator.reconciler.actions import (
    Apply,
    Create,
    Delete,
    DryRunCreate,
    Event,
    PatchConfigMap,
    PatchFinalizers,
    PatchRoute,
    PatchStatus,
)
from multitask_operator.reconciler.state.accessors import format_time
from multitask_operator.reconciler.state.cluster_state import ClusterState, named_pvc_names
from multitask_operator.reconciler.state.stage_job import stage_jobs
from multitask_operator.settings import Settings
from support.graph_builders import graph_of, manifest, model, resolved

SETTINGS = Settings(trainer_image="registry.example/trainer:1")
FIELDS = {
    "Job": "jobs",
    "Pod": "pods",
    "ConfigMap": "configmaps",
    "Service": "services",
    "ServiceAccount": "service_accounts",
    "Role": "roles",
    "RoleBinding": "role_bindings",
    "Deployment": "deployments",
    "NetworkPolicy": "network_policies",
    "PodDisruptionBudget": "disruption_budgets",
    "EndpointSlice": "endpoint_slices",
    "TaskRoute": "task_routes",
}
BEGAN, ENDED = 1_800_000_000.0, 1_800_003_600.0
"""When the time of the cluster begins, and when every Job ends, in Unix seconds."""
STORAGE = {"uri": "pvc://models/desk"}
REMOVED = STORAGE | {"retain": False}


def copied(objects):
    """Plain data once more; several times as fast as `copy.deepcopy`."""
    return pickle.loads(pickle.dumps(objects))


class Cluster:
    """One namespace with one MultiTaskModel. ``now`` moves by a second a reconcile.

    ``images``: trainer image → the stage versions in it; by default those of this release.
    """

    def __init__(self, *tasks, settings=SETTINGS, access="ReadWriteMany", **spec):
        self.settings = settings
        self.now = BEGAN
        self.objects = {}
        self.events = []
        self.created = []
        self.written = 0
        self.referenced_configmaps = {}
        self.warnings = {}
        self.stored = set()
        self.images = {}
        self.namespace = None
        self.sibling_models = ()
        self._uids = 0
        self.pvcs = {"models": {"metadata": {"name": "models"}, "spec": {"accessModes": [access]}, "status": {}}}
        self.model = {"metadata": {"name": "desk", "namespace": "ml", "uid": "u-desk", "generation": 0}}
        self.model |= {"apiVersion": "multitask.dev/v1alpha1", "kind": "MultiTaskModel"}
        self.edit(*tasks, **spec)

    def edit(self, *tasks, **spec):
        """Another spec: the API server counts the generation up."""
        for task in tasks:
            for split, source in task["data"].items():
                source["uri"] = f"s3://bucket/{task['name']}/{split}.jsonl"
        self.resource = model(*tasks, **{"storage": STORAGE, **spec})
        self.model["spec"] = json.loads(json.dumps(self.resource.spec.to_json()))
        self.model["metadata"]["generation"] += 1
        self._changed()

    def annotate(self, name, value):
        """``kubectl annotate``: the generation stays."""
        self.model["metadata"].setdefault("annotations", {})[name] = value
        self._changed()

    def delete(self, *finalizers):
        """``kubectl delete``; ``finalizers`` are those that it adds for the garbage collector."""
        metadata = self.model["metadata"]
        metadata["finalizers"] = [*metadata.get("finalizers", ()), *finalizers]
        metadata["deletionTimestamp"] = format_time(self.now)
        metadata["generation"] += 1
        self._changed()
        self._collect()

    @property
    def is_being_deleted(self):
        return "deletionTimestamp" in self.model["metadata"]

    # -- the operator --------------------------------------------------------------------------------------------------

    def observe(self) -> ClusterState | None:
        """What the operator reads; None once the model is gone."""
        if self.model is None:
            return None
        lists = {field: [] for field in FIELDS.values()}
        for (kind, _), item in sorted(copied(self.objects).items()):
            lists[FIELDS[kind]].append(item)
        names = named_pvc_names(self.model)
        return ClusterState(
            namespace="ml",
            name="desk",
            model=copied(self.model),
            namespace_object=self.namespace,
            pvcs={name: self.pvcs.get(name) for name in names},
            referenced_configmaps=self.referenced_configmaps,
            warnings=self.warnings,
            sibling_models=self.sibling_models,
            **{field: tuple(items) for field, items in lists.items()},
        )

    def reconcile(self, stale=None, actions=None):
        """Decide, on the current or on a ``stale`` state, and apply the actions; gives the result.

        ``actions``: the operator is killed after so many.
        """
        state = stale or self.observe()
        result = Result() if state is None else reconcile(state, self.settings, self.now)
        self.now += 1
        for action in result.actions[:actions]:
            self.apply(action)
        return result

    def settle(self, limit=30):
        """Reconcile until nothing is written any more."""
        for _ in range(limit):
            before = self.written
            self.reconcile()
            if self.written == before:
                return
        raise AssertionError(f"no rest after {limit} reconciles: {self.reconcile().actions}")

    def apply(self, action):
        if isinstance(action, DryRunCreate):
            return
        if isinstance(action, Event):
            self.events.append((action.type, action.reason))
            return
        if isinstance(action, PatchStatus | PatchFinalizers):
            if self.model is None or action.resource_version != self.model["metadata"]["resourceVersion"]:
                return
            if isinstance(action, PatchStatus):
                self.model["status"] = dict(action.status)
            else:
                self.model["metadata"]["finalizers"] = list(action.finalizers)
        elif isinstance(action, Delete):
            key = (action.kind, action.name)
            if key not in self.objects or self.objects[key]["metadata"]["uid"] != action.uid:
                return
            del self.objects[key]
        elif isinstance(action, PatchConfigMap):
            item = self.objects.get(("ConfigMap", action.name))
            if item is None or item["metadata"]["resourceVersion"] != action.resource_version:
                return
            item.setdefault("data", {}).update(action.data)
        elif isinstance(action, PatchRoute):
            item = self.objects.get(("TaskRoute", action.name))
            if item is None or item["metadata"]["resourceVersion"] != action.resource_version:
                return
            self._uids += 1
            item["metadata"]["resourceVersion"] = str(self._uids)
            if action.status is not None:
                item["status"] = {
                    key: value for key, value in {**item.get("status", {}), **action.status}.items() if value
                }
            if action.spec is not None:
                item["spec"] = copied(dict(action.spec))
                item["metadata"]["generation"] += 1
        elif isinstance(action, Create | Apply):
            key = (action.obj["kind"], action.obj["metadata"]["name"])
            if key in self.objects and isinstance(action, Create):
                return
            self._put(key, action.obj)
            if isinstance(action, Create):
                self.created.append(key)
        self.written += 1
        self._changed()
        self._collect()

    def _changed(self):
        if self.model is not None:
            self.model["metadata"]["resourceVersion"] = str(self.written)

    def _collect(self):
        """A model that is deleted and has no finalizer is gone, and with it all that it owns."""
        metadata = self.model["metadata"] if self.model is not None else None
        if metadata is None or ("deletionTimestamp" in metadata and not metadata["finalizers"]):
            self.model = None
            self.objects.clear()

    def _put(self, key, obj):
        self._uids += 1
        item = copied(dict(obj))
        before = self.objects.get(key)
        made = {
            "uid": f"u-{self._uids}",
            "resourceVersion": f"{self._uids}",
            "creationTimestamp": format_time(BEGAN + self.written),
            "generation": 1,
        }
        if before is not None and before["metadata"].get("ownerReferences") in (
            None,
            obj["metadata"]["ownerReferences"],
        ):
            kept = {"generation": 1} | {name: before["metadata"][name] for name in made if name in before["metadata"]}
            kept["resourceVersion"] = made["resourceVersion"]
            made |= kept | {"generation": kept["generation"] + (before.get("spec") != item.get("spec"))}
            item |= {"status": before["status"]} if "status" in before else {}
        item["metadata"] = {**item["metadata"], **made}
        self.objects[key] = item

    # -- Jobs and users ------------------------------------------------------------------------------------------------

    def jobs(self, kind=None, *, open_only=True):
        """Names of Jobs, of those that have not ended."""
        return [
            name
            for (sort, name), item in sorted(self.objects.items())
            if sort == "Job"
            and (kind is None or item["metadata"]["labels"][KIND_LABEL] == kind)
            and not (open_only and item.get("status", {}).get("conditions"))
        ]

    def finish(self, name):
        """The Job completes: its pod has reported everything. Without its ConfigMap, or the right, it can only wait."""
        configmap = self.objects.get(("ConfigMap", name))
        if configmap is None or not self.writers(name):
            return
        self.check_access(name)
        kind = self.objects["Job", name]["metadata"]["labels"][KIND_LABEL]
        if kind == RESOLVE:
            configmap["data"][RESOLVED_KEY] = resolved(self.resource).model_dump_json(by_alias=True)
        elif kind == CLEAN_UP:
            cleaned = CleanUpResult(results=len(self.stored), files=len(self.stored), bytes=2_000_000, left=0)
            configmap["data"][CLEAN_UP_RESULT_KEY] = cleaned.model_dump_json(by_alias=True)
            self.stored.clear()
        elif kind == GC:
            configmap["data"][GC_RESULT_KEY] = self._collect_garbage(configmap).model_dump_json(by_alias=True)
        else:
            for order in json.loads(configmap["data"][ORDERS_KEY])["orders"]:
                packed = pack_manifest(self._manifest(name, order))
                configmap.setdefault("binaryData", {})[manifest_key(order["digest"])] = packed
                self.stored.add(order["output"])
        self.end(name, "Complete")

    def check_access(self, name):
        """The account of the Job's pods may report into its ConfigMap, and no account of another kind of Job may."""
        job, writers = self.objects["Job", name], self.writers(name)
        account = job["spec"]["template"]["spec"]["serviceAccountName"]
        of_kind = access_name("desk", job["metadata"]["labels"][KIND_LABEL])
        assert account in writers, f"{name} runs as {account}, and only {sorted(writers)} may report"
        assert writers <= {account, of_kind}, f"{name} runs as {account}, and {sorted(writers)} may report"

    def writers(self, configmap):
        """The accounts that may patch the ConfigMap."""
        return {
            subject["name"]
            for (kind, name), item in self.objects.items()
            if kind == "RoleBinding" and _may_patch(self.objects.get(("Role", item["roleRef"]["name"])), configmap)
            for subject in item["subjects"]
        }

    def _collect_garbage(self, configmap):
        """What the program ``gc`` does to what is stored."""
        order = GarbageOrder.model_validate_json(configmap["data"][GC_KEY])
        names = {address.partition("/stages/")[2]: address for address in self.stored}
        unused = {name for name in names if name not in order.keep and name.rpartition("/")[0] not in order.keep_stages}
        if not order.dry_run:
            self.stored -= {names[name] for name in unused}
        results = tuple(UnusedResult(name=name, bytes=1000) for name in sorted(unused))
        return GarbageResult(
            dry_run=order.dry_run, results=results, count=len(results), files=len(results), bytes=0, left=0
        )

    def end(self, name, condition, message=""):
        """The Job ends, whatever its pod has reported."""
        ended = {"type": condition, "status": "True", "message": message, "lastTransitionTime": format_time(ENDED)}
        self.objects["Job", name]["status"] = {"startTime": format_time(BEGAN), "conditions": [ended]}

    def _manifest(self, name, order) -> Manifest:
        manifests = {key: item for stage_job in stage_jobs(self.observe()) for key, item in stage_job.manifests.items()}
        image = self.objects["Job", name]["spec"]["template"]["spec"]["containers"][0]["image"]
        versions = self.images.get(image, VERSIONS)
        assert order["version"] == versions[order["kind"]], f"{image} has another version of {order['kind']}"
        node = graph_of(self.resource, manifests, serve=False, versions=versions)[order["stage"]]
        assert node.digest == order["digest"]
        return manifest(node, self.resource)

    def to_the_end(self, limit=60):
        """Every Job completes as soon as it exists, until there is none."""
        for _ in range(limit):
            self.settle()
            jobs = self.jobs()
            if not jobs:
                return
            self.finish(jobs[0])
        raise AssertionError(f"no end after {limit} Jobs")

    def to_the_end_though_killed(self, actions, limit):
        """As `to_the_end`, by operators that are each killed after so many writes; ``limit`` of them at most."""
        for _ in range(limit):
            before = self.written
            self.reconcile(actions=actions)
            if self.written == before:
                jobs = self.jobs()
                if not jobs:
                    return
                self.finish(jobs[0])

    # -- results ------------------------------------------------------------------------------------------------------

    def condition(self, condition_type):
        return next(item for item in self.model["status"]["conditions"] if item["type"] == condition_type)

    @property
    def job_runs(self):
        """Names of all Jobs ever created, in order."""
        return [name for kind, name in self.created if kind == "Job"]


def _may_patch(role, configmap):
    rules = (role or {}).get("rules") or ()
    return any("patch" in rule["verbs"] and configmap in rule["resourceNames"] for rule in rules)


def run_until(cluster, kind, limit=40):
    """Jobs end well until those of ``kind`` stand."""
    for _ in range(limit):
        cluster.settle()
        if cluster.jobs(kind):
            return
        cluster.finish(cluster.jobs()[0])
    raise AssertionError(f"no {kind} after {limit} Jobs")


def show(cluster, *pods):
    """These pods are seen beside those that are there."""
    for item in pods:
        cluster.objects["Pod", item["metadata"]["name"]] = item
