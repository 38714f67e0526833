"""A simulated cluster whose tasks are asked all the time, while a write of the operator goes wrong."""

from __future__ import annotations

import dataclasses
from collections import Counter

from multitask_api.bundle import BASELINE
from multitask_api.serving_io.gateway_state import LATENCY_BUCKETS_S, GatewayState, RevisionCounts
from multitask_api.serving_io.names import REVISION_LABEL
from multitask_api.serving_io.revision import REVISION_KEY, Revision
from multitask_api.stage_io.results import EvaluateResult, ExportResult
from multitask_operator.reconciler import reconcile
from multitask_operator.reconciler.actions import (
    Apply,
    Create,
    DryRunCreate,
    Event,
    PatchConfigMap,
    PatchFinalizers,
    PatchRoute,
    PatchStatus,
)
from multitask_operator.reconciler.state.cluster_state import RejectedWrite
from support.graph_builders import task
from support.simulated_servers import ServedCluster, tables_of
from support.simulation import BEGAN, copied

KILLED, FAILED, REFUSED = "killed", "failed", "refused"
"""The operator is killed right after the write; the API server does not answer it; it refuses it."""
MIXTURE, SINGLE, UNROUTED = "urgency", "intent", "escalate"
"""Tasks: qualified; not qualified, so that its baseline answers; not routed."""
REQUESTS = 30
"""Requests for each task that a gateway sends after each change."""
LONGEST = 50.0
"""Seconds that a request may take."""
_FAST = next(index for index, bound in enumerate(LATENCY_BUCKETS_S) if bound >= 0.04)


class Interrupted(Exception):
    """What was decided is not carried out any further. ``rejected``: the API server refused a write."""

    def __init__(self, rejected=None):
        super().__init__(rejected)
        self.rejected = rejected


class BusyCluster(ServedCluster):
    """Gateways send requests after every single write of the operator and after everything that servers do.

    ``fault``: (number, kind): what happens to that write, counted from 1 and from when ``writes`` was cleared.
    ``fails``: whether a revision answers a task with an error. ``promised``: tasks that every table has to answer.
    Gateways follow a table one after the other.
    """

    def __init__(self, *tasks, **spec):
        self.writes = []
        self.fault = None
        self.fails = lambda name, revision: False
        self.tables = {}
        self.counts = Counter()
        self.answered = Counter()
        self.promised = frozenset()
        self.unanswered = []
        self.wrong = []
        self.last_used = {}
        self.cut = []
        self.most_live = 0
        self.records = {}
        super().__init__(*(tasks or map(task, (MIXTURE, SINGLE, UNROUTED))), **spec)

    # -- the operator ----------------------------------------------------------------------------------------------

    def reconcile(self, stale=None, actions=None):
        """See `Cluster.reconcile`; after a write that went wrong nothing else of the decision is carried out."""
        state = stale or self.observe()
        result = reconcile(state, self.settings, self.now)
        self.now += 1
        try:
            for action in result.actions[:actions]:
                self.apply(action)
        except Interrupted as interrupted:
            self.written += 1  # there is something left to do
            if interrupted.rejected is not None:
                refused = dataclasses.replace(state, rejected_writes=(interrupted.rejected,))
                for action in reconcile(refused, self.settings, self.now).actions:
                    if isinstance(action, PatchStatus):
                        self.apply(action)
        return result

    def apply(self, action):
        """An action as the requests that it is."""
        if isinstance(action, DryRunCreate | Event):
            super().apply(action)
        elif isinstance(action, PatchRoute) and action.status is not None and action.spec is not None:
            self._write(dataclasses.replace(action, spec=None))
            version = self.route["metadata"]["resourceVersion"]
            self._write(dataclasses.replace(action, status=None, resource_version=version))
        else:
            self._write(action)

    def _write(self, action):
        if self._is_late(action):
            raise Interrupted
        self.writes.append(action)
        number, kind = self.fault or (0, "")
        is_wrong = number == len(self.writes)
        if is_wrong and kind == FAILED:
            raise Interrupted
        if is_wrong and kind == REFUSED and not isinstance(action, PatchStatus):
            raise Interrupted(_rejected(action))
        version = self.model["metadata"]["resourceVersion"]
        super().apply(action)
        if not isinstance(action, PatchStatus | PatchFinalizers):  # the model is as it was
            self.model["metadata"]["resourceVersion"] = version
        self.ask()
        if is_wrong:
            raise Interrupted

    def _is_late(self, action) -> bool:
        """Whether somebody else has written what the action is about since it was decided."""
        match action:
            case PatchStatus() | PatchFinalizers():
                item = self.model
            case PatchConfigMap():
                item = self.objects.get(("ConfigMap", action.name))
            case PatchRoute():
                item = self.route
            case _:
                return False
        return item is None or item["metadata"]["resourceVersion"] != action.resource_version

    # -- gateways and servers --------------------------------------------------------------------------------------

    def run_servers(self) -> bool:
        """See `ServedCluster.run_servers`. Gateways are faster than servers, and each of them waits for the others."""
        changed = super().run_servers()
        self.ask()
        return changed

    def _run_kubelets(self):
        super()._run_gateways()
        self.ask()
        super()._run_kubelets()

    def _run_gateways(self):
        pass

    def _run(self, deployment):
        """Servers are ready one step after their pods are there."""
        is_there = ("Pod", f"{deployment['metadata']['name']}-0") in self.objects
        starts = self.starts
        if not is_there:
            self.starts = lambda revision: False
        super()._run(deployment)
        self.starts = starts

    def follow(self, gateway) -> bool:
        """One gateway at a time: while another is behind, two tables are followed."""
        first = next((name for name in self.gateways if self._is_behind(name)), None)
        if gateway != first or not super().follow(gateway):
            return False
        self.tables[gateway] = self.route["metadata"]["generation"], copied(self.route["spec"])
        return True

    def gateway_state(self, name) -> GatewayState:
        """What the gateway has counted in the windows of its table."""
        generation, spec = self.tables.get(name, (None, {"tasks": ()}))
        windows = {(item["name"], item.get("window") or "") for item in spec["tasks"]}
        rows = tuple(
            _row(task_name, revision, window, sent, failed=self.fails(task_name, revision))
            for (gateway, task_name, revision, window), sent in self.counts.items()
            if gateway == name and (task_name, window) in windows
        )
        return GatewayState(gateway=name, started=BEGAN, tables=tables_of(generation), counts=rows)

    def ask(self):
        """Requests of every task through every gateway, by the table that it follows."""
        for (kind, _), item in self.objects.items():
            name = item["metadata"].get("labels", {}).get(REVISION_LABEL)
            if kind == "ConfigMap" and name not in self.records and REVISION_KEY in item["data"]:
                self.records[name] = Revision.model_validate_json(item["data"][REVISION_KEY])
        for gateway, (_, spec) in self.tables.items():
            entries = {entry["name"]: entry for entry in spec["tasks"]}
            for name in self.promised - entries.keys():
                self.unanswered.append((gateway, name, []))
            for entry in entries.values():
                self._ask(gateway, entry)
        live = {key for key, servers in self.replicas.items() if servers}
        for revision, used in self.last_used.items():
            if revision not in live and self.now < used + LONGEST:
                self.cut.append(revision)
        self.most_live = max(self.most_live, len(live))

    def _ask(self, gateway, entry):
        used = [backend for backend in entry["backends"] if backend["weight"]]
        ready = [backend for backend in used if self._has_ready(backend["service"])]
        if not ready and (used or entry["name"] in self.promised):
            self.unanswered.append((gateway, entry["name"], [backend["revision"] for backend in used]))
        for backend in ready:
            revision = backend["revision"]
            told = next((each for each in self.records[revision].tasks if each.name == entry["name"]), None)
            if told is None or (told.served_by != BASELINE and told.verdict != "Qualified"):
                self.wrong.append((entry["name"], revision))
            else:
                self.answered[entry["name"], told.served_by] += REQUESTS
            self.last_used[revision] = self.now
            self.counts[gateway, entry["name"], revision, entry.get("window") or ""] += REQUESTS

    def _has_ready(self, service) -> bool:
        return bool(self.objects.get(("EndpointSlice", service), {}).get("endpoints"))

    def _is_behind(self, gateway) -> bool:
        return self.route is not None and self.tables.get(gateway, (None,))[0] != self.route["metadata"]["generation"]

    # -- what was trained ------------------------------------------------------------------------------------------

    def _manifest(self, name, order):
        made = super()._manifest(name, order)
        if made.kind == "evaluate":
            verdicts = EvaluateResult.model_validate(made.result)
            tasks = tuple(
                each if each.task == MIXTURE else each.model_copy(update={"score": 0.6, "verdict": "NotQualified"})
                for each in verdicts.tasks
            )
            return made.model_copy(update={"result": verdicts.model_copy(update={"tasks": tasks}).to_json()})
        if made.kind == "export":
            export = ExportResult.model_validate(made.result)
            served = {SINGLE: BASELINE, UNROUTED: None}
            tasks = tuple(
                each.model_copy(update={"served_by": served.get(each.task, each.served_by)}) for each in export.tasks
            )
            return made.model_copy(update={"result": export.model_copy(update={"tasks": tasks}).to_json()})
        return made


def _rejected(action) -> RejectedWrite:
    is_object = isinstance(action, Create | Apply)
    kind, name = (
        (action.obj["kind"], action.obj["metadata"]["name"])
        if is_object
        else (getattr(action, "kind", type(action).__name__.removeprefix("Patch")), action.name)
    )
    return RejectedWrite("write", kind, name, 403, "Forbidden", "not now", action.obj if is_object else None)


def _row(name, revision, window, sent, *, failed) -> RevisionCounts:
    latencies = [0] * (len(LATENCY_BUCKETS_S) + 1)
    latencies[_FAST] = 0 if failed else sent
    errors = {"INTERNAL": sent} if failed else {}
    return RevisionCounts(
        task=f"ml/desk/{name}",
        revision=revision,
        window=window,
        requests=sent,
        errors=errors,
        latencies=tuple(latencies),
    )
