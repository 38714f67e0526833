"""Full runs of ``mtm-operator`` against a real API server and the real Job controller, pods played by the test.

Whatever happens on the way, every run ends as the same run ends in the simulation, and then nothing is written.
"""

from __future__ import annotations

import re
import signal
from collections import Counter

import pytest

from devcluster import chart, objects
from multitask_api.cluster import MODEL_LABEL
from support.cluster.access_reviews import account
from support.cluster.fake_pods import FakePods
from support.cluster.model_factory import MOST_WRITES, apply, make_model, status
from support.cluster.operator_process import run_operator
from support.graph_builders import task
from support.simulation import FIELDS, Cluster

#: Deaths of the API server in one run, and the operator's writes between two.
DEATHS, WRITES = 3, 10
SECONDS = 240
ALL = ("system:masters",)
MTM = "/apis/multitask.dev/v1alpha1/namespaces/{}/multitaskmodels/desk"


def trained(cluster, namespace, pods):
    """Whether no pod waits and the model says that it is trained; pods that wait run to their end."""
    current = status(cluster, namespace)
    return not pods.run_waiting() and current.get("stage") == "Trained"


def simulated(*names):
    """What `end_state` has to be."""
    cluster = Cluster(*(task(name) for name in names))
    cluster.to_the_end()
    return _without_times(cluster.model["status"]), Counter((kind, _anonymous(name)) for kind, name in cluster.objects)


def end_state(cluster, namespace):
    """The status without times, and the children."""
    items = cluster.get(",".join(FIELDS), "--namespace", namespace, "--selector", MODEL_LABEL)["items"]
    children = Counter((item["kind"], _anonymous(item["metadata"]["name"])) for item in items if item["kind"] != "Pod")
    return _without_times(cluster.get("multitaskmodels", "desk", "--namespace", namespace)["status"]), children


def _without_times(status):
    conditions = [{**item, "lastTransitionTime": None} for item in status["conditions"]]
    return {**status, "conditions": conditions, "progressTime": None}


def _anonymous(name):
    """The name of a resolve unit goes by the model's uid."""
    return re.sub(r"-resolve-\w{8}$", "-resolve", name)


def assert_nothing_was_done_twice(cluster, namespace, mark, pods):
    """No stage ran twice, and no object of a name was made twice."""
    created = Counter(
        (event["objectRef"]["resource"], event["objectRef"]["name"])
        for event in cluster.audited(mark)
        if event["verb"] == "create" and event["responseStatus"]["code"] == 201
        and event["objectRef"].get("namespace") == namespace and "name" in event["objectRef"]
    )  # fmt: skip
    assert set(created.values()) == {1}
    assert max(Counter(pods.ran).values()) == 1


def assert_they_rest(cluster, namespace, users, *running):
    """They look once more, because somebody touched the model, and write nothing."""
    for each in running:
        each.until("it rests", each.is_idle)
    mark, served = cluster.audit_mark(), [each.healthz().json()["served"] for each in running]
    cluster.kubectl("label", "mtm", "desk", "look=again", "--namespace", namespace)
    for each, before in zip(running, served, strict=True):
        each.until(
            "it reconciles",
            lambda each=each, before=before: each.healthz().json()["served"] > before and each.is_idle(),
        )
    assert [line for user in users for line in cluster.writes(mark, user)] == []


@pytest.fixture
def ready(rest, namespace):
    """A namespace with the claim that the models name."""
    objects.claim(rest, namespace, "models")
    return namespace


def test_a_model_is_trained_from_apply_to_its_verdicts(cluster, ready, tmp_path):
    resource, mark = make_model("urgency", "intent"), cluster.audit_mark()
    apply(cluster, ready, resource)
    with FakePods(cluster, ready, resource) as pods, run_operator(cluster.admin, tmp_path, ready) as running:
        running.until("the model is trained", lambda: trained(cluster, ready, pods))
    final, _ = ended = end_state(cluster, ready)
    assert ended == simulated("urgency", "intent")
    assert final["qualified"] == "2/2"
    assert {row["name"]: row["verdict"] for row in final["tasks"]} == {"urgency": "Qualified", "intent": "Qualified"}
    assert_nothing_was_done_twice(cluster, ready, mark, pods)


def test_killed_after_every_write_it_comes_to_the_same_end(cluster, ready, tmp_path):
    resource, mark = make_model("urgency"), cluster.audit_mark()
    apply(cluster, ready, resource)
    kills = 0
    with FakePods(cluster, ready, resource) as pods:
        while kills < MOST_WRITES and not trained(cluster, ready, pods):
            with run_operator(cluster.admin, tmp_path, ready, killed_after_writes=1) as running:
                running.until(
                    f"a write after {kills} kills",
                    lambda running=running: running.process.poll() is not None or trained(cluster, ready, pods),
                )
                kills += running.process.poll() == -signal.SIGKILL
        assert trained(cluster, ready, pods)
    assert 20 < kills < MOST_WRITES
    assert end_state(cluster, ready) == simulated("urgency")
    assert_nothing_was_done_twice(cluster, ready, mark, pods)
    user = "operator-after-kills"
    with run_operator(cluster.user(user, ALL), tmp_path, ready) as running:
        assert_they_rest(cluster, ready, [user], running)


def test_two_operators_at_once_come_to_the_same_end(cluster, ready, tmp_path):
    resource, mark = make_model("urgency", "intent"), cluster.audit_mark()
    users = ["operator-one", "operator-two"]
    one, two = (cluster.user(user, ALL) for user in users)
    with (
        FakePods(cluster, ready, resource) as pods,
        run_operator(one, tmp_path, ready, name="one") as first,
        run_operator(two, tmp_path, ready, name="two") as second,
    ):
        for each in (first, second):
            each.until("it is up", lambda each=each: "health on port" in each.log_text())
        apply(cluster, ready, resource)
        first.until("the model is trained", lambda: trained(cluster, ready, pods), SECONDS)
        assert all(cluster.writes(mark, user) for user in users), "both had a part in it"
        assert_they_rest(cluster, ready, users, first, second)
        assert (first.healthz().status_code, second.healthz().status_code) == (200, 200)
        assert "Traceback" not in first.log_text() + second.log_text()
    assert end_state(cluster, ready) == simulated("urgency", "intent")
    assert_nothing_was_done_twice(cluster, ready, mark, pods)


def test_while_the_api_server_dies_again_and_again_it_comes_to_the_same_end(own_cluster, tmp_path):
    client, user, resource = own_cluster.client, "operator", make_model("urgency", "intent")
    with client.rest() as rest:
        objects.namespace(rest, "team")
        objects.claim(rest, "team", "models")
    apply(client, "team", resource)
    deaths, mark = 0, client.audit_mark()
    with FakePods(client, "team", resource) as pods, run_operator(client.user(user, ALL), tmp_path, "team") as running:
        while deaths < DEATHS:
            running.until(
                f"{WRITES} writes after {deaths} deaths",
                lambda mark=mark: not pods.run_waiting() and len(client.writes(mark, user)) >= WRITES,
                SECONDS,
            )
            assert not trained(client, "team", pods)
            own_cluster.restart_api_server(signal.SIGKILL)
            deaths, mark = deaths + 1, client.audit_mark()
        running.until("the model is trained", lambda: trained(client, "team", pods), SECONDS)
        assert_they_rest(client, "team", [user], running)
        assert running.process.poll() is None
    assert end_state(client, "team") == simulated("urgency", "intent")
    assert_nothing_was_done_twice(client, "team", 0, pods)


@pytest.mark.parametrize("served", ["the whole cluster", "its namespace"])
def test_with_the_charts_rights_no_request_is_refused_and_no_secret_is_read(own_cluster, tmp_path, served):
    if chart.helm() is None:
        pytest.skip("needs helm: `make kubernetes` builds it")
    client = own_cluster.client
    with client.rest() as rest:
        for name in ("operators", "team"):
            objects.namespace(rest, name)
        for name in ("hub-token", "registry"):
            objects.post(rest, "/api/v1/namespaces/team/secrets", {"metadata": {"name": name}})
    resource = make_model(
        "urgency",
        storage={"uri": "s3://bucket/desk"},
        credentials=[{"secretRef": {"name": "hub-token"}}],
        imagePullSecrets=[{"name": "registry"}],
    )
    apply(client, "team", resource)
    namespaces = ["team"] if served == "its namespace" else []
    options = ["--set", f"namespaces={{{','.join(namespaces)}}}"] if namespaces else []
    with (
        chart.installed_rbac(client, *options, release="mtm", namespace="operators") as name,
        FakePods(client, "team", resource) as pods,
    ):
        mark, config = client.audit_mark(), client.service_account("operators", name)
        with run_operator(config, tmp_path, *namespaces) as running:
            running.until("the model is trained", lambda: trained(client, "team", pods), SECONDS)
            running.until("it rests", running.is_idle)
        requests = client.audited(mark, account("operators", name))
    asked = {event["objectRef"]["resource"] for event in requests}
    assert {"multitaskmodels", "jobs", "pods", "configmaps", "roles", "namespaces", "events"} <= asked
    assert "secrets" not in asked
    assert [event for event in requests if event["responseStatus"]["code"] in (401, 403)] == []
    (pod, *_) = client.get("pods", "--namespace", "team")["items"]
    assert pod["spec"]["imagePullSecrets"] == [{"name": "registry"}]
    assert pod["spec"]["containers"][0]["envFrom"] == [{"secretRef": {"name": "hub-token"}}]
