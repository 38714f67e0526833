"""``mtm-operator`` as a process, against a real API server and the real Job controller."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest

from cluster import objects
from cluster.processes import until
from integration.cluster.pods import Pods
from multitask_operator.cluster.testing import VARIABLE
from unit.operator.builders import model, task

#: Writes of one run, at most: the loop of kills must end.
MOST_WRITES = 200


def desk(*names, name="desk", uri="pvc://models/desk", retain=True, **spec):
    """A model whose data and storage lie where a pod could reach them."""
    tasks = [task(name) for name in names]
    for each in tasks:
        for split, source in each["data"].items():
            source["uri"] = f"s3://bucket/{each['name']}/{split}.jsonl"
    return model(*tasks, name=name, storage={"uri": uri, "retain": retain}, **spec)


def apply(cluster, namespace, resource):
    """``kubectl apply --server-side``, as a user would."""
    document = resource.to_json()
    document["metadata"]["namespace"] = namespace
    cluster.kubectl("apply", "--server-side", "--filename", "-", stdin=document)


@contextmanager
def operator(cluster, namespace, log, *, config=None, **environment):
    """The program, for one namespace, as the admin or the user of ``config``; ended by SIGTERM."""
    command = [str(Path(sys.executable).with_name("mtm-operator")), "--kubeconfig", str(config or cluster.admin)]
    command += ["--namespaces", namespace]
    command += ["--trainer-image", "registry.example/trainer:1", "--health-port", "0"]
    with log.open("ab") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=os.environ | environment)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def status(cluster, namespace):
    found = cluster.get("multitaskmodels", "desk", "--namespace", namespace)
    return found.get("status", {})


def job_names(cluster, mark):
    """Every Job that was created since ``mark``, once for each time."""
    return Counter(line.split()[-1] for line in cluster.writes(mark) if line.startswith("create jobs"))


@pytest.fixture
def ready(rest, namespace):
    """A namespace with the claim that the models name."""
    objects.claim(rest, namespace, "models")
    return namespace


def test_a_model_is_trained_from_apply_to_its_verdicts(cluster, ready, tmp_path):
    resource, mark = desk("urgency", "intent"), cluster.audit_mark()
    apply(cluster, ready, resource)
    with Pods(cluster, ready, resource) as pods, operator(cluster, ready, tmp_path / "log"):
        until("the model is trained", lambda: not pods.work() and status(cluster, ready).get("stage") == "Trained", 120)
    found = status(cluster, ready)
    assert found["qualified"] == "2/2"
    assert {row["name"]: row["verdict"] for row in found["tasks"]} == {"urgency": "Qualified", "intent": "Qualified"}
    assert max(Counter(pods.ran).values()) == 1
    assert set(job_names(cluster, mark).values()) == {1}


def test_killed_after_every_write_it_comes_to_the_same_end(cluster, ready, tmp_path):
    resource, mark = desk("urgency"), cluster.audit_mark()
    apply(cluster, ready, resource)
    log, kills = tmp_path / "log", 0
    with Pods(cluster, ready, resource) as pods:

        def trained():
            return not pods.work() and status(cluster, ready).get("stage") == "Trained"

        while kills < MOST_WRITES and not trained():
            with operator(cluster, ready, log, **{VARIABLE: "1"}) as process:
                until(
                    f"a write after {kills} kills; its log is {log}",
                    lambda process=process: trained() or process.poll() is not None,
                    60,
                )
                kills += process.poll() == -signal.SIGKILL
        assert trained()
    assert 20 < kills < MOST_WRITES
    assert max(Counter(pods.ran).values()) == 1
    assert set(job_names(cluster, mark).values()) == {1}
    with operator(cluster, ready, log):  # and rests
        rested = cluster.audit_mark()
        until("the operator has looked once", lambda: "serving" in log.read_text(), 30)
    assert json.dumps(cluster.writes(rested, "admin")) == "[]"
