"""`mtm gc NAME` on a real API server: from the annotation to what the command prints, also with killed operators."""

from __future__ import annotations

import asyncio
import json
import threading
import time

import pytest

from devcluster import objects
from devcluster.processes import until
from multitask_api.cluster import GC_ANNOTATION, MODEL_LABEL
from multitask_kubernetes.connection import connect
from multitask_kubernetes.logs import LogClient
from multitask_operator import cli
from multitask_operator.commands.cluster import gc
from support.cluster.fake_pods import FakePods
from support.cluster.model_factory import MOST_WRITES, apply, job_names, make_model, status
from support.cluster.operator_process import run_operator
from support.graph_builders import all_done

ORDER = "remove 2026-11-28T05:00:00Z"


@pytest.fixture
def ready(rest, namespace, cluster, monkeypatch):
    """A namespace with the claim that the models name, which `mtm` finds."""
    objects.claim(rest, namespace, "models")
    monkeypatch.setenv("KUBECONFIG", str(cluster.admin))
    return namespace


def trained(cluster, namespace, pods):
    """Every stage has run."""

    def is_trained():
        pods.run_waiting()
        return status(cluster, namespace).get("stage") == "Trained"

    until("the model is trained", is_trained, 300)


class Kubelet:
    """Runs waiting pods beside a command that waits for them."""

    def __init__(self, pods):
        self.pods = pods
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        self._thread.join()

    def _run(self):
        while not self._ended.wait(0.2):
            self.pods.run_waiting()


def annotate(cluster, namespace, value):
    cluster.kubectl("-n", namespace, "annotate", "mtm", "desk", "--overwrite", f"{GC_ANNOTATION}={value}")


def gc_objects(cluster, namespace):
    names = cluster.kubectl("-n", namespace, "get", "jobs,configmaps", "-l", f"{MODEL_LABEL}=desk", "--output", "name")
    return [name for name in names.stdout.split() if "/desk-gc-" in name]


def answers(cluster, namespace):
    found = cluster.get("configmaps", "--namespace", namespace, "-l", "multitask.dev/kind=gc")["items"]
    return [json.loads(item["data"]["answer.json"]) for item in found if "answer.json" in item["data"]]


def events(cluster, namespace):
    items = cluster.get("events", "--namespace", namespace)["items"]
    return [item["message"] for item in items if item["reason"].startswith("Garbage")]


def test_a_trained_model_is_collected_and_a_running_one_is_not(cluster, ready, tmp_path, capsys):
    resource = make_model("urgency")
    apply(cluster, ready, resource)
    with FakePods(cluster, ready, resource) as pods, run_operator(cluster.admin, tmp_path, ready) as running:
        until("a Job has its pod", pods.waiting, 60)
        assert cli.invoke(["gc", "desk", "-n", ready]) == 2
        assert "nothing more is removed: Its Jobs are at work: desk-resolve-" in capsys.readouterr().err
        assert gc_objects(cluster, ready)[0].startswith("configmap/")
        trained(cluster, ready, pods)
        with Kubelet(pods):
            assert cli.invoke(["gc", "desk", "-n", ready, "--dry-run"]) == 0
            assert capsys.readouterr().out.splitlines() == [
                "would remove stages/export/0000 (2.0 MB)",
                "2.0 MB would be freed",
            ]
            assert cli.invoke(["gc", "desk", "-n", ready, "--output", "json"]) == 0
        printed = json.loads(capsys.readouterr().out)
        assert (printed["removed"], printed["artifacts"], printed["bytes"]) == (True, ["export/0000"], 2_000_000)
        until(
            "there is an Event",
            lambda: "1 results, 3 files with 2.0 MB removed, which nothing used." in events(cluster, ready),
            30,
        )
        assert len([message for message in events(cluster, ready) if "removed" in message]) == 1
        assert "forbidden" not in running.log_text()
    manifests = all_done(resource, serve=False)
    assert [order.dry_run for order in pods.collected] == [True, False]
    for order in pods.collected:
        assert set(order.keep) == {f"{stage}/{digest}" for stage, digest in manifests}
        assert (order.model, order.unfinished) == (f"{ready}/desk", ())
    assert len(gc_objects(cluster, ready)) == 2  # Job and ConfigMap of the last order


def test_killed_after_every_write_an_order_is_carried_out_once(cluster, ready, tmp_path):
    resource, mark = make_model("urgency"), cluster.audit_mark()
    apply(cluster, ready, resource)
    kills = 0
    with FakePods(cluster, ready, resource) as pods:
        with run_operator(cluster.admin, tmp_path, ready):
            trained(cluster, ready, pods)
        annotate(cluster, ready, ORDER)

        def is_answered():
            pods.run_waiting()
            return bool(answers(cluster, ready))

        while kills < MOST_WRITES and not is_answered():
            with run_operator(cluster.admin, tmp_path, ready, killed_after_writes=1) as running:
                running.until(
                    f"a write after {kills} kills",
                    lambda running=running: is_answered() or running.process.poll() is not None,
                )
                kills += running.process.poll() is not None
    assert 4 <= kills < 20  # of Role, RoleBinding, ConfigMap, Job
    assert [answer["phase"] for answer in answers(cluster, ready)] == ["Done"]
    assert len(pods.collected) == 1
    assert {name: count for name, count in job_names(cluster, mark).items() if "-gc-" in name}.popitem()[1] == 1


def test_an_order_that_is_withdrawn_or_replaced_ends_and_says_so(cluster, ready, tmp_path):
    resource = make_model("urgency")
    apply(cluster, ready, resource)

    async def waited(order):
        async with LogClient(await connect(cluster.admin, None), field_manager="mtm") as client:
            return await gc.wait_for_answer(client, ready, "desk", order)

    with FakePods(cluster, ready, resource) as pods, run_operator(cluster.admin, tmp_path, ready):
        trained(cluster, ready, pods)
        annotate(cluster, ready, ORDER)
        until("there is a Job", lambda: len(gc_objects(cluster, ready)) == 2, 60)
        cluster.kubectl("-n", ready, "annotate", "mtm", "desk", f"{GC_ANNOTATION}-")
        until("its Job is gone", lambda: gc_objects(cluster, ready) == [], 60)
        with pytest.raises(gc.NotCollected, match="the order was withdrawn"):
            asyncio.run(waited(ORDER))


def test_what_another_model_may_use_stays(cluster, ready, tmp_path, capsys):
    resource = make_model("urgency")
    apply(cluster, ready, resource)
    with FakePods(cluster, ready, resource) as pods, run_operator(cluster.admin, tmp_path, ready):
        trained(cluster, ready, pods)
        apply(cluster, ready, make_model("urgency", name="other", suspend=True))
        assert cli.invoke(["gc", "desk", "-n", ready]) == 2
        assert "MultiTaskModel 'other' uses pvc://models/desk." in capsys.readouterr().err
        cluster.kubectl("-n", ready, "delete", "mtm", "other")
        with Kubelet(pods):
            assert cli.invoke(["gc", "desk", "-n", ready]) == 0
    assert len(pods.collected) == 1


def test_without_an_operator_the_order_is_withdrawn_after_a_while(cluster, ready, monkeypatch, capsys):
    monkeypatch.setattr(gc, "SILENT_SECONDS", 2.0)
    apply(cluster, ready, make_model("urgency"))
    began = time.monotonic()
    assert cli.invoke(["gc", "desk", "-n", ready]) == 1
    assert time.monotonic() - began < 60
    message = capsys.readouterr().err
    assert "the operator has not answered for 2 s, and the order is withdrawn" in message
    model = cluster.get("mtm", "desk", "--namespace", ready)
    assert GC_ANNOTATION not in model["metadata"].get("annotations", {})


def test_who_may_only_read_is_told_what_to_ask_for(cluster, ready, monkeypatch, capsys):
    apply(cluster, ready, make_model("urgency"))
    user = f"reader-{ready}"
    cluster.kubectl(
        *("-n", ready, "create", "role", "reader", "--verb=get,list"),
        "--resource=multitaskmodels.multitask.dev,taskroutes.multitask.dev,jobs.batch,pods,configmaps",
    )
    cluster.kubectl("-n", ready, "create", "rolebinding", "reader", "--role=reader", f"--user={user}")
    monkeypatch.setenv("KUBECONFIG", str(cluster.user(user)))
    assert cli.invoke(["gc", "desk", "-n", ready]) == 2
    assert "ask for the ClusterRole edit" in capsys.readouterr().err
