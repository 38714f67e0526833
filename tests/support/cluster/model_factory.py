"""Creates a model for a cluster, applies it as a user does, and reads its status."""

from __future__ import annotations

from collections import Counter

from support.graph_builders import model, task
from support.simulation import STORAGE

#: Writes of one run, at most: a loop of kills must end.
MOST_WRITES = 200


def make_model(*tasks, name="desk", storage=STORAGE, **spec):
    """A model whose data and storage lie where a pod could reach them; tasks as `task` makes them, or their names."""
    task_documents = [task(each) if isinstance(each, str) else each for each in tasks]
    for each in task_documents:
        for split, source in each["data"].items():
            source["uri"] = f"s3://bucket/{each['name']}/{split}.jsonl"
    return model(*task_documents, name=name, storage=storage, **spec)


def apply(cluster, namespace, resource):
    """``kubectl apply --server-side``, as a user would."""
    document = resource.to_json()
    document["metadata"]["namespace"] = namespace
    cluster.kubectl("apply", "--server-side", "--filename", "-", stdin=document)


def status(cluster, namespace):
    """The status of the model; empty while it has none."""
    return cluster.get("multitaskmodels", "desk", "--namespace", namespace).get("status", {})


def job_names(cluster, mark):
    """Every Job that was created since ``mark``, once for each time."""
    return Counter(line.split()[-1] for line in cluster.writes(mark) if line.startswith("create jobs"))
