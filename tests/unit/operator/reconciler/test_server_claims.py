"""A claim that one node alone can mount: what cannot work does not start, and what may not work is told before."""

from __future__ import annotations

import copy
import dataclasses

import pytest

from multitask_operator.settings import PodDefaults
from support.graph_builders import task
from support.simulated_servers import SERVING_SETTINGS, ServedCluster

URGENCY = task("urgency")
ONE, ONCE, MANY = "ReadWriteOncePod", "ReadWriteOnce", "ReadWriteMany"
KNOWN = {}


def on(node):
    """A pod template that keeps pods on the node."""
    return {"spec": {"nodeSelector": {"kubernetes.io/hostname": node}}}


def by_affinity(*nodes, key="kubernetes.io/hostname", terms=1):
    group = "matchFields" if key == "metadata.name" else "matchExpressions"
    term = {group: [{"key": key, "operator": "In", "values": list(nodes)}]}
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term] * terms}}
    return {"spec": {"affinity": {"nodeAffinity": required}}}


def served(access, replicas=1, servers=None, jobs=None, settings=SERVING_SETTINGS, **spec):
    """A cluster in which everything has gone on as far as it can."""
    key = repr((access, replicas, servers, jobs, settings, spec))
    if key not in KNOWN:
        cluster = ServedCluster(
            URGENCY,
            access=access,
            settings=settings,
            serving={"replicas": replicas, "podTemplate": servers or {}},
            training={"podTemplate": jobs or {}},
            **spec,
        )
        cluster.serve()
        KNOWN[key] = cluster
    return copy.deepcopy(KNOWN[key])


def ready(cluster):
    return cluster.condition("Ready")["reason"]


def warning(cluster) -> str | None:
    """The message of the warning about claims; None if there is none."""
    found = [each for each in cluster.model["status"]["conditions"] if each["type"] == "ConfigurationWarning"]
    return found[0]["message"] if found and found[0]["reason"] == "StorageNotShared" else None


ALL_ELSE = "the Job that verifies a revision, the next training and the servers of the next revision can mount it on"
JOBS = "the Job that verifies a revision and the next training can mount it on"
INSTALLED = dataclasses.replace(SERVING_SETTINGS, serving_pods=PodDefaults(on("a")), stage_pods=PodDefaults(on("a")))

# the sentence, arguments of `served`, the parts of the warning; none: there is no warning
SERVED = [
    ("many nodes can mount it", {"access": MANY, "replicas": 3}, []),
    ("storage is no claim", {"access": ONCE, "replicas": 3, "storage": {"uri": "s3://bucket/desk"}}, []),
    ("one node can, and pods may be on any", {"access": ONCE}, [ALL_ELSE, "claim 'models' offers ReadWriteOnce"]),
    ("all pods are on one node", {"access": ONCE, "replicas": 2, "servers": on("a"), "jobs": on("a")}, []),
    ("all pods are on one node by affinity",
     {"access": ONCE, "replicas": 2, "servers": by_affinity("a"), "jobs": by_affinity("a", key="metadata.name")}, []),
    ("the installation keeps them on one", {"access": ONCE, "replicas": 2, "settings": INSTALLED}, []),
    ("only the servers are on one node", {"access": ONCE, "replicas": 2, "servers": on("a")}, [JOBS]),
    ("only the Jobs are on one node", {"access": ONCE, "jobs": on("a")}, [ALL_ELSE]),
]  # fmt: skip

CURES = ["use a ReadWriteMany claim or s3:// storage", "nodeSelector kubernetes.io/hostname"]


@pytest.mark.parametrize(("given", "parts"), [row[1:] for row in SERVED], ids=[row[0] for row in SERVED])
def test_it_is_served_where(given, parts):
    cluster = served(**given)
    assert ready(cluster) == "Serving"
    message = warning(cluster)
    assert (message is not None) == bool(parts)
    assert [part for part in (parts and parts + CURES) if part not in (message or "")] == []


CACHE = {"spec": {"volumes": [{"name": "cache", "persistentVolumeClaim": {"claimName": "cache"}}]}}
# the sentence, arguments of `served`, parts of the message
BLOCKED = [
    ("two servers on any nodes", {"access": ONCE, "replicas": 2},
     ["spec.serving.replicas is 2", "'models' offers ReadWriteOnce", "need ReadWriteMany", "nodeSelector"]),
    ("two servers on one of two nodes", {"access": ONCE, "replicas": 2, "servers": by_affinity("a", "b")},
     ["spec.serving.replicas is 2"]),
    ("two servers, a node by each term", {"access": ONCE, "replicas": 2, "servers": by_affinity("a", terms=2)},
     ["spec.serving.replicas is 2"]),
    ("servers and Jobs on different nodes", {"access": ONCE, "servers": on("a"), "jobs": on("b")},
     ["keeps the servers on a", "keeps the Jobs on b", "ReadWriteMany"]),
    ("a claim of one pod", {"access": ONE}, ["'models' offers ReadWriteOncePod", "one pod at a time", "ReadWriteMany"]),
    ("a claim of one pod, on one node", {"access": ONE, "servers": on("a"), "jobs": on("a")}, ["ReadWriteOncePod"]),
]  # fmt: skip


@pytest.mark.parametrize(("given", "parts"), [row[1:] for row in BLOCKED], ids=[row[0] for row in BLOCKED])
def test_no_server_starts(given, parts):
    cluster = served(**given)
    condition = cluster.condition("Ready")
    assert (condition["status"], condition["reason"]) == ("False", "StorageNotShared")
    assert [part for part in parts if part not in condition["message"]] == []
    assert not cluster.replicas
    assert warning(cluster) == condition["message"]


@pytest.mark.parametrize("given", [{"access": ONCE}, {"access": ONCE, "replicas": 2}, {"access": ONE}])
def test_it_is_told_before_anything_is_trained(given):
    access, replicas = given["access"], given.get("replicas", 1)
    cluster = ServedCluster(URGENCY, access=access, serving={"replicas": replicas})
    cluster.settle()
    assert warning(cluster) is not None
    assert cluster.jobs(), "training goes on"


@pytest.mark.parametrize(
    ("settings", "replicas"),
    [(dataclasses.replace(SERVING_SETTINGS, serving_image=""), 1), (SERVING_SETTINGS, 0)],
    ids=["an installation that serves nothing", "nobody is to answer"],
)
def test_without_servers_nothing_is_told(settings, replicas):
    cluster = ServedCluster(URGENCY, access=ONCE, settings=settings, serving={"replicas": replicas})
    cluster.settle()
    assert warning(cluster) is None


def test_a_cache_of_the_servers_counts_too():
    cluster = ServedCluster(URGENCY, serving={"replicas": 2, "podTemplate": CACHE})
    cluster.pvcs["cache"] = {"metadata": {"name": "cache"}, "spec": {"accessModes": [ONCE]}, "status": {}}
    cluster.serve()
    assert ready(cluster) == "StorageNotShared"
    assert "claim 'cache' offers ReadWriteOnce" in cluster.condition("Ready")["message"]


def test_the_next_revision_does_not_start_on_another_node():
    cluster = served(ONCE, servers=on("a"), jobs=on("a"))
    before = cluster.replicas
    cluster.put_servers_on("a")
    cluster.edit(URGENCY, serving={"replicas": 1, "podTemplate": on("b")}, training={"podTemplate": on("b")})
    cluster.serve()
    assert cluster.replicas == before, "its servers would wait for the claim"
    assert ready(cluster) == "Serving"
    assert "servers run on a and hold it" in (warning(cluster) or "")

    cluster.edit(
        URGENCY,
        serving={"replicas": 1, "podTemplate": on("a"), "resources": {"limits": {"cpu": "3"}}},
        training={"podTemplate": on("a")},
    )
    cluster.serve()
    assert (ready(cluster), warning(cluster)) == ("Serving", None)
    assert {name for name, replicas in cluster.replicas.items() if replicas}.isdisjoint(before)


def test_the_warning_names_the_node_of_the_servers():
    cluster = served(ONCE)
    cluster.put_servers_on("node-7")
    cluster.settle()
    assert "on their node (now node-7) only" in (warning(cluster) or "")


def test_it_stands_beside_what_else_is_likely_to_disappoint():
    selecting = {"spec": {"nodeSelector": {"nvidia.com/gpu.product": "x"}}}
    cluster = ServedCluster(URGENCY, access=ONCE, training={"podTemplate": selecting})
    cluster.settle()
    condition = cluster.condition("ConfigurationWarning")
    assert condition["reason"] == "GpuNodesForAllStages"
    assert "podTemplates.gpu; claim 'models' offers ReadWriteOnce" in condition["message"]


# -- pods that wait for a claim ----------------------------------------------------------------------------------------

MULTI_ATTACH = 'Multi-Attach error for volume "pvc-1" Volume is already used by pod(s) desk-serve-1'


def test_a_server_that_waits_for_the_claim_says_so():
    cluster = ServedCluster(URGENCY, access=ONCE)
    cluster.starts = lambda _: False
    cluster.serve()
    (name,) = [name for kind, name in cluster.objects if kind == "Pod"]
    pod = cluster.objects["Pod", name]
    pod["status"] = {"phase": "Pending"}
    cluster.warnings = {pod["metadata"]["uid"]: MULTI_ATTACH}
    cluster.now += 60
    cluster.settle()
    condition = cluster.condition("Ready")
    assert condition["reason"] == "StorageNotShared"
    assert "Multi-Attach error" in condition["message"]
    assert "ReadWriteMany" in condition["message"]


def test_a_job_that_waits_for_the_claim_says_so():
    cluster = ServedCluster(URGENCY, access=ONCE)
    cluster.settle()
    (name,) = cluster.jobs()
    labels = cluster.objects["Job", name]["spec"]["template"]["metadata"]["labels"] | {
        "batch.kubernetes.io/job-name": name
    }
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod", "uid": "u-pod", "labels": labels}}
    pod["metadata"]["creationTimestamp"] = "2027-01-15T08:00:00Z"
    cluster.objects["Pod", "pod"] = pod | {"status": {"phase": "Pending"}}
    cluster.warnings = {"u-pod": MULTI_ATTACH}
    cluster.now += 120
    cluster.settle()
    condition = cluster.condition("Progressing")
    assert condition["reason"] == "StorageNotShared"
    assert "nodeSelector kubernetes.io/hostname" in condition["message"]
