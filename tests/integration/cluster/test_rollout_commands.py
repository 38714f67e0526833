"""`mtm rollout` and `mtm rollback` write annotations on a real API server, and say what permission is missing."""

from __future__ import annotations

import json

import pytest

from multitask_api.routes import RolloutState, TaskRouteSpec
from multitask_api.serving_io.names import ROLLOUT_ANNOTATION
from multitask_operator import cli
from multitask_operator.objects.names import Owner
from multitask_operator.objects.serving.routes import task_route
from support.cluster.model_factory import apply, make_model

STATE = RolloutState(revision="0000000b", stable="0000000a", phase="Progressing", step_started="2026-09-21T14:13:20Z")


@pytest.fixture
def rolling(cluster, namespace):
    """A model whose rollout is under way."""
    apply(cluster, namespace, make_model("urgency"))
    model = cluster.get("multitaskmodel", "desk", "-n", namespace)
    owner = Owner(namespace, "desk", model["metadata"]["uid"])
    route = task_route(owner, TaskRouteSpec(namespace=namespace, model="desk"))
    cluster.kubectl("apply", "--server-side", "--filename", "-", stdin=route)
    cluster.kubectl(
        *("-n", namespace, "patch", "taskroute", "desk", "--subresource=status", "--type=merge"),
        *("--patch", json.dumps({"status": {"rollout": STATE.to_json()}})),
    )
    return namespace


def annotations(cluster, namespace):
    return cluster.get("multitaskmodel", "desk", "-n", namespace)["metadata"].get("annotations", {})


def test_an_order_stands_in_the_model_and_changes_nothing_else(cluster, rolling, monkeypatch, capsys):
    monkeypatch.setenv("KUBECONFIG", str(cluster.admin))
    before = cluster.get("multitaskmodel", "desk", "-n", rolling)
    assert cli.invoke(["rollout", "pause", "desk", "-n", rolling, "--output", "json"]) == 0
    written = json.loads(capsys.readouterr().out)
    assert annotations(cluster, rolling)[ROLLOUT_ANNOTATION] == written["value"]
    after = cluster.get("multitaskmodel", "desk", "-n", rolling, "--show-managed-fields")
    assert (after["spec"], after["metadata"]["generation"]) == (before["spec"], before["metadata"]["generation"])
    managers = {item["manager"] for item in after["metadata"]["managedFields"]}
    assert "mtm" in managers
    assert cli.invoke(["rollout", "status", "desk", "-n", rolling, "--output", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["rollout"] == STATE.to_json()
    assert cli.invoke(["rollout", "status", "desk", "-n", rolling]) == 0
    assert "revision 0000000b, before it 0000000a: Progressing: step 1 (0 %)" in capsys.readouterr().out


def test_who_may_only_read_is_told_what_to_ask_for(cluster, rolling, monkeypatch, capsys):
    user = f"reader-{rolling}"
    cluster.kubectl(
        *("-n", rolling, "create", "role", "reader", "--verb=get,list"),
        "--resource=multitaskmodels.multitask.dev,taskroutes.multitask.dev,jobs.batch,pods,configmaps",
    )
    cluster.kubectl("-n", rolling, "create", "rolebinding", "reader", "--role=reader", f"--user={user}")
    monkeypatch.setenv("KUBECONFIG", str(cluster.user(user)))
    assert cli.invoke(["rollout", "abort", "desk", "-n", rolling]) == 2
    message = capsys.readouterr().err
    assert "you may not patch" in message
    assert "ask for the ClusterRole edit" in message
    assert ROLLOUT_ANNOTATION not in annotations(cluster, rolling)
