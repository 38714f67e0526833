"""Servers and gateways of a simulated cluster: Deployments get pods, pods get ready, gateways follow the table."""

from __future__ import annotations

import copy
import dataclasses

from multitask_api.cluster import KIND_LABEL
from multitask_api.serving_io.names import REVISION_LABEL, SERVING
from multitask_operator.reconciler.state.accessors import format_time
from support.simulation import SETTINGS, Cluster

IMAGE = "registry.example/triton:1"
SERVING_SETTINGS = dataclasses.replace(SETTINGS, serving_image=IMAGE, gateway_namespace="gateways")
GATEWAYS = ("gateway-a", "gateway-b")


class ServedCluster(Cluster):
    """A cluster whose operator serves. ``gateways`` follow the table; ``start`` says which revisions get ready."""

    def __init__(self, *tasks, settings=SERVING_SETTINGS, gateways=GATEWAYS, **spec):
        self.gateways = gateways
        self.starts = lambda revision: True
        super().__init__(*tasks, settings=settings, **spec)

    def serve(self, limit=60):
        """Everything goes on, training and servers, until nothing changes any more."""
        for _ in range(limit):
            self.settle()
            jobs = self.jobs()
            if jobs:
                self.finish(jobs[0])
            elif not self.run_servers():
                return
        raise AssertionError(f"no end after {limit} rounds")

    def run_servers(self) -> bool:
        """What kubelets and gateways do once; whether anything changed."""
        before = copy.deepcopy({key: item for key, item in self.objects.items() if key[0] != "Job"})
        for deployment in self.deployments():
            self._run(deployment)
        for name in [name for kind, name in self.objects if kind in ("Pod", "EndpointSlice")]:
            if not any(name.startswith(item["metadata"]["name"]) for item in self.deployments()):
                self.objects.pop(("Pod", name), None)
                self.objects.pop(("EndpointSlice", name), None)
        route = self.route
        if route is not None:
            acks = [
                {"name": name, "observedGeneration": route["metadata"]["generation"], "time": format_time(self.now)}
                for name in self.gateways
            ]
            known = {ack["name"]: ack for ack in route.get("status", {}).get("gateways", ())}
            if [known.get(ack["name"], {}).get("observedGeneration") for ack in acks] != [
                ack["observedGeneration"] for ack in acks
            ]:
                route["status"] = route.get("status", {}) | {"gateways": acks}
                self._touch(route)
        return before != {key: item for key, item in self.objects.items() if key[0] != "Job"}

    def deployments(self):
        return [item for (kind, _), item in sorted(self.objects.items()) if kind == "Deployment"]

    @property
    def route(self):
        return self.objects.get(("TaskRoute", "desk"))

    @property
    def weights(self):
        """Task → revision → weight."""
        return {
            task["name"]: {backend["revision"]: backend["weight"] for backend in task["backends"]}
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
            if kind == "ConfigMap" and item["metadata"]["labels"].get(KIND_LABEL) == SERVING
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
        deployment["status"] = {
            "observedGeneration": metadata["generation"],
            "replicas": wanted,
            "readyReplicas": ready,
            "conditions": [{"type": "Available", "status": "True" if ready else "False"}],
        }
        self.objects["EndpointSlice", metadata["name"]] = _slice(metadata, names[:ready])


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
