"""Servers and gateways of a simulated cluster: Deployments get pods, pods get ready, gateways follow the table."""

from __future__ import annotations

import dataclasses

from multitask_api.cluster import KIND_LABEL
from multitask_api.serving_io.gateway_state import GatewayState, TableVersion
from multitask_api.serving_io.names import REVISION_LABEL
from multitask_api.serving_io.task_names import NameClaim
from multitask_api.serving_io.verify import VERIFIED_KEY, VERIFY_KEY, VERIFY_REVISION, RevisionReport, VerifyOrder
from multitask_api.stage_io.results import VerifyResult
from multitask_operator.objects.serving.revisions import TEMPLATE_KEY
from multitask_operator.reconciler.state.accessors import format_time
from support.simulation import BEGAN, SETTINGS, Cluster, copied

IMAGE = "registry.example/triton:1"
SERVING_SETTINGS = dataclasses.replace(
    SETTINGS, serving_image=IMAGE, gateway_namespace="gateways", gateway_address="gateway.gateways:8081"
)
GATEWAYS = ("gateway-a", "gateway-b")


class ServedCluster(Cluster):
    """A cluster whose operator serves. ``gateways`` follow the table; ``starts`` says which revisions get ready.

    ``unreachable``: gateways whose pods exist and do not answer. ``gateway_states``: whether the operator can ask the
    gateways what they have counted.
    """

    def __init__(self, *tasks, settings=SERVING_SETTINGS, gateways=GATEWAYS, **spec):
        self.gateways = gateways
        self.starts = lambda revision: True
        self.unreachable = ()
        self.gateway_states = True
        self.rolling_models = ()
        self.other_claims = ()
        self._nodes = {}
        super().__init__(*tasks, settings=settings, **spec)

    def serve(self, limit=300, look=None):
        """Everything goes on, training, servers and time, until nothing changes any more.

        ``look``: what the operator does at a time, by default `settle`.
        """
        waits = 0
        for _ in range(limit):
            before = self.written
            (look or self.settle)()
            jobs = self.jobs()
            if jobs:
                self.finish(jobs[0])
            elif not self.run_servers() and self.written == before:
                wait = self.reconcile().requeue_after
                waits += 1
                if wait is None or waits > 90:
                    return
                self.now += wait
                continue
            waits = 0
        raise AssertionError(f"no end after {limit} rounds: {self.condition('Ready')} {self.route}")

    def serve_until_verified(self):
        """Train, and run servers, until a Job is about to verify the first revision."""
        for _ in range(40):
            self.settle()
            if self.jobs(VERIFY_REVISION):
                return self
            if self.jobs():
                self.finish(self.jobs()[0])
            self.run_servers()
        raise AssertionError("nothing is verified")

    def finish(self, name):
        """See `Cluster.finish`; a revision is verified without a fault."""
        job = self.objects["Job", name]["metadata"]
        if job["labels"][KIND_LABEL] != VERIFY_REVISION:
            super().finish(name)
            return
        self.check_access(name)
        data = self.objects["ConfigMap", name]["data"]
        order = VerifyOrder.model_validate_json(data[VERIFY_KEY])
        data[VERIFIED_KEY] = verified(order)
        self.end(name, "Complete")

    def observe(self):
        state = super().observe()
        if state is None or self.gateway_states is None:
            return state
        state = dataclasses.replace(
            state, rolling_models=frozenset(self.rolling_models), name_claims=self._name_claims()
        )
        states = {name: self.gateway_state(name) for name in self.gateways}
        return dataclasses.replace(state, gateway_states=states, gateway_pods=frozenset((*states, *self.unreachable)))

    def gateway_state(self, name) -> GatewayState | None:
        """What a gateway answers: it has had no traffic."""
        generation = self.route["metadata"]["generation"] if self.route is not None else None
        return GatewayState(gateway=name, started=BEGAN, tables=tables_of(generation))

    def _name_claims(self):
        if self.route is None:
            return self.other_claims
        metadata, tasks = self.route["metadata"], tuple(task["name"] for task in self.route["spec"]["tasks"])
        return (*self.other_claims, NameClaim("ml", "desk", tasks, metadata["creationTimestamp"], metadata["uid"]))

    def run_servers(self) -> bool:
        """What kubelets and gateways do once; whether anything changed."""
        before = copied({key: item for key, item in self.objects.items() if key[0] != "Job"})
        self._run_kubelets()
        self._run_gateways()
        return before != {key: item for key, item in self.objects.items() if key[0] != "Job"}

    def _run_kubelets(self):
        for deployment in self.deployments():
            self._run(deployment)
        for name in [name for kind, name in self.objects if kind in ("Pod", "EndpointSlice")]:
            if not any(name.startswith(item["metadata"]["name"]) for item in self.deployments()):
                self.objects.pop(("Pod", name), None)
                self.objects.pop(("EndpointSlice", name), None)

    def _run_gateways(self):
        for name in self.gateways:
            self.follow(name)

    def follow(self, gateway) -> bool:
        """The gateway follows the newest table and says so; whether it followed another one before."""
        route = self.route
        if route is None:
            return False
        known = {ack["name"]: ack for ack in route.get("status", {}).get("gateways", ())}
        generation = route["metadata"]["generation"]
        if known.get(gateway, {}).get("observedGeneration") == generation:
            return False
        known[gateway] = {"name": gateway, "observedGeneration": generation, "time": format_time(self.now)}
        route["status"] = route.get("status", {}) | {"gateways": list(known.values())}
        self._touch(route)
        return True

    def deployments(self):
        return [item for (kind, _), item in sorted(self.objects.items()) if kind == "Deployment"]

    def put_servers_on(self, node):
        """The pods of servers that there are run on the node."""
        for (kind, name), item in self.objects.items():
            if kind == "Pod" and item["metadata"]["labels"].get(REVISION_LABEL):
                self._nodes[name] = node
                item["spec"] = {"nodeName": node}

    @property
    def route(self):
        return self.objects.get(("TaskRoute", "desk"))

    @property
    def weights(self):
        """Task → revision → weight, of those that have traffic."""
        return {
            task["name"]: {each["revision"]: each["weight"] for each in task["backends"] if each["weight"]}
            for task in (self.route or {"spec": {"tasks": ()}})["spec"]["tasks"]
        }

    @property
    def replicas(self):
        """Revision → servers that its Deployment asks for."""
        return {item["metadata"]["labels"][REVISION_LABEL]: item["spec"]["replicas"] for item in self.deployments()}

    @property
    def recorded(self):
        """The revisions with a record."""
        return {
            item["metadata"]["labels"][REVISION_LABEL]
            for (kind, _), item in self.objects.items()
            if kind == "ConfigMap" and TEMPLATE_KEY in item["data"]
        }

    def _touch(self, item):
        self._uids += 1
        item["metadata"]["resourceVersion"] = str(self._uids)

    def _run(self, deployment):
        metadata, wanted = deployment["metadata"], deployment["spec"]["replicas"]
        ready = wanted if self.starts(metadata["labels"][REVISION_LABEL]) else 0
        names = [f"{metadata['name']}-{index}" for index in range(wanted)]
        pods = {name for kind, name in self.objects if kind == "Pod" and name.startswith(metadata["name"])}
        for name in pods - set(names):
            del self.objects["Pod", name]
        for index, name in enumerate(names):
            known = self.objects.get(("Pod", name))
            at = format_time(self.now) if known is None else known["metadata"]["creationTimestamp"]
            self.objects["Pod", name] = _pod(name, metadata, is_ready=index < ready, at=at)
            if name in self._nodes:
                self.objects["Pod", name]["spec"] = {"nodeName": self._nodes[name]}
        deployment["status"] = {
            "observedGeneration": metadata["generation"],
            "replicas": wanted,
            "readyReplicas": ready,
            "conditions": [{"type": "Available", "status": "True" if ready else "False"}],
        }
        self.objects["EndpointSlice", metadata["name"]] = _slice(metadata, names[:ready])


def tables_of(generation: int | None) -> tuple[TableVersion, ...]:
    """What a gateway says of the model's table; None: it has none."""
    return () if generation is None else (TableVersion(namespace="ml", name="desk", generation=generation),)


def verified(order: VerifyOrder) -> str:
    """The report of a revision that answers as it was evaluated."""
    agreement = {"compared": 9, "equal": 9, "near_ties": 0, "different": 0}
    tasks = {task.name: agreement for task in order.tasks}
    report = RevisionReport(revision=order.revision, result=VerifyResult(**agreement, tasks=tasks))
    return report.model_dump_json(by_alias=True)


def _pod(name, metadata, *, is_ready, at):
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "uid": f"u-{name}", "labels": metadata["labels"], "creationTimestamp": at},
        "status": {"phase": "Running", "containerStatuses": [{"name": "server", "ready": is_ready}]},
    }


def _slice(metadata, ready):
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": metadata["name"],
            "labels": metadata["labels"] | {"kubernetes.io/service-name": metadata["name"]},
        },
        "endpoints": [
            {"addresses": ["10.0.0.1"], "conditions": {"ready": True}, "targetRef": {"name": name}} for name in ready
        ],
    }
