"""A busy cluster that has room for a number of server pods, and says of the others that they fit no node."""

from __future__ import annotations

from multitask_api.serving_io.names import REVISION_LABEL
from multitask_operator.reconciler.state.accessors import format_time
from support.busy_cluster import BusyCluster
from support.simulated_servers import ServedCluster, _slice

NO_GPU = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu. preemption: 0/1 nodes are available"


class TightCluster(BusyCluster):
    """``room``: server pods that can run at a time; one that ends needs its room once more.

    ``fewest``: the fewest ready servers that there were since it was set; ``unserved``: backends with weight and
    without a ready server. ``unscheduled``: what the scheduler says of a pod that fits no node.
    """

    def __init__(self, *tasks, room, **spec):
        self.room = room
        self.unscheduled = NO_GPU
        self.fewest = room
        self.unserved = []
        self._nodes_of = {}
        self._ending = 0
        super().__init__(*tasks, **spec)

    @property
    def ready(self):
        """Revision → servers that are ready."""
        slices = [item for (kind, _), item in self.objects.items() if kind == "EndpointSlice"]
        return {item["metadata"]["labels"][REVISION_LABEL]: len(item["endpoints"]) for item in slices}

    def ask(self):
        super().ask()
        self.fewest = min(self.fewest, sum(self.ready.values()))
        for gateway, (_, spec) in self.tables.items():
            self.unserved += [
                (gateway, entry["name"], backend["revision"], backend["weight"])
                for entry in spec["tasks"]
                for backend in entry["backends"]
                if backend["weight"] and not self.ready.get(backend["revision"])
            ]

    def run_servers(self) -> bool:
        """See `BusyCluster.run_servers`; a pod that ends holds its room until the next time."""
        was_ending = self._ending
        return super().run_servers() or bool(was_ending)

    # -- scheduler and kubelets ----------------------------------------------------------------------------------------

    def _run_kubelets(self):
        ServedCluster._run_gateways(self)
        self.ask()
        pods = {item["metadata"]["name"]: self._wanted(item) for item in self.deployments()}
        kept = {name for names in pods.values() for name in names}
        started = dict(self._nodes_of)
        room = self.room - len(started) - self._ending
        self._ending = len(started.keys() - kept)
        self._nodes_of = {name: node for name, node in started.items() if name in kept}
        for name in sorted(kept - started.keys(), key=self._waiting_since)[: max(0, room)]:
            self._nodes_of[name] = "node-1"
        for key in [key for key in self.objects if key[0] == "Pod" and key[1] not in kept]:
            del self.objects[key]
        for key in [key for key in self.objects if key[0] == "EndpointSlice" and key[1] not in pods]:
            del self.objects[key]
        for deployment in self.deployments():
            self._show(deployment, pods[deployment["metadata"]["name"]], started.keys())

    def _wanted(self, deployment):
        """The pods that it is to have: of those that there are the ones that run stay."""
        own = deployment["metadata"]["name"]
        there = [name for kind, name in self.objects if kind == "Pod" and name.startswith(f"{own}-")]
        there.sort(key=lambda name: name not in self._nodes_of)
        free = (name for name in (f"{own}-{index}" for index in range(1000)) if name not in there)
        wanted = deployment["spec"]["replicas"]
        return (there + [next(free) for _ in range(wanted - len(there))])[:wanted]

    def _waiting_since(self, name):
        known = self.objects.get(("Pod", name))
        return known["metadata"]["creationTimestamp"] if known is not None else format_time(self.now), name

    def _show(self, deployment, names, started):
        metadata = deployment["metadata"]
        ready = []
        for name in names:
            known = self.objects.get(("Pod", name))
            created = known["metadata"]["creationTimestamp"] if known is not None else format_time(self.now)
            if name not in self._nodes_of:
                since = known["status"]["conditions"][0]["lastTransitionTime"] if known is not None else created
                status = {"phase": "Pending", "conditions": [self._unscheduled(since)]}
            else:
                if name in started and self.starts(metadata["labels"][REVISION_LABEL]):
                    ready.append(name)
                status = {"phase": "Running", "containerStatuses": [{"name": "server", "ready": name in ready}]}
            labels = metadata["labels"]
            self.objects["Pod", name] = {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name, "uid": f"u-{name}", "labels": labels, "creationTimestamp": created},
                "spec": {"nodeName": self._nodes_of[name]} if name in self._nodes_of else {},
                "status": status,
            }
        deployment["status"] = {
            "observedGeneration": metadata["generation"],
            "replicas": len(names),
            "readyReplicas": len(ready),
            "conditions": [{"type": "Available", "status": "True" if ready else "False"}],
        }
        self.objects["EndpointSlice", metadata["name"]] = _slice(metadata, ready)

    def _unscheduled(self, since):
        return {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": self.unscheduled,
            "lastTransitionTime": since,
        }
