"""``mtm`` against a real API server, as a user who has only what the chart's role for it gives."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import yaml

from devcluster import binaries, objects
from devcluster.processes import until
from multitask_api.report import Report
from multitask_operator import cli
from multitask_operator.report.build import build_report
from support.cluster.fake_kubelet import Logs, kubelet
from support.cluster.fake_pods import FakePods
from support.cluster.model_factory import apply, make_model, status
from support.cluster.operator_process import run_operator
from support.graph_builders import all_done, graph_of

ROLE = Path(__file__).parents[3] / "helm" / "multitask-operator" / "templates" / "command-role.yaml"


@pytest.fixture(scope="module")
def role(cluster):
    """The ClusterRole as the chart's file has it, under a name of its own."""
    text = "\n".join(line for line in ROLE.read_text().splitlines() if "{{" not in line)
    document = yaml.safe_load(text)
    document["metadata"] = {"name": "test-mtm"}
    cluster.kubectl("apply", "--server-side", "--filename", "-", stdin=document)
    return "test-mtm"


@pytest.fixture
def viewer(cluster, role, namespace):
    """The kubeconfig of a user who has that role in the namespace, which is the one of its context."""
    user = f"viewer-{namespace}"
    cluster.kubectl("-n", namespace, "create", "rolebinding", "viewer", f"--clusterrole={role}", f"--user={user}")
    config = cluster.user(user)
    document = yaml.safe_load(config.read_text())
    document["contexts"][0]["context"]["namespace"] = namespace
    config.write_text(yaml.safe_dump(document))
    return config


@pytest.fixture
def mtm(viewer, tmp_path, monkeypatch, capsys):
    """Runs a command as that user; its exit status and what it printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KUBECONFIG", str(viewer))

    def run(*arguments):
        code = cli.invoke(arguments)
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        assert "bug of mtm" not in captured.err
        return code, captured.out, captured.err

    return run


@pytest.fixture
def ready(rest, namespace):
    objects.claim(rest, namespace, "models")
    return namespace


def test_a_model_from_its_creation_to_trained(cluster, ready, mtm, tmp_path):
    resource = make_model("urgency", "intent")
    apply(cluster, ready, resource)
    assert json.loads(mtm("explain", "desk", "--output", "json")[1])["reason"] == "OperatorActs"
    assert "no status yet" in mtm("status", "desk")[1]

    with run_operator(cluster.admin, tmp_path, ready), FakePods(cluster, ready, resource) as pods:
        until("resolve stands", lambda: status(cluster, ready).get("stages"), 60)
        code, out, _ = mtm("report", "desk", "--output", "json")
        assert (code, Report.model_validate_json(out).qualified) == (0, 0)
        assert "have not been checked for this generation yet" in mtm("plan", "desk")[1]
        until(
            "the model is trained",
            lambda: not pods.run_waiting() and status(cluster, ready).get("stage") == "Trained",
            120,
        )

    code, out, _ = mtm("status", "desk")
    assert code == 0
    assert re.search(r"desk, generation 1: Trained · \d+/\d+ stages · qualified 2/2 · trained result 0123abcd", out)
    assert re.search(r"urgency +classification +0.850 +0.860 +1.012 +Qualified +classification", out)
    assert json.loads(mtm("status", "desk", "--output", "json")[1])["status"]["stage"] == "Trained"

    assert json.loads(mtm("explain", "desk", "--output", "json")[1])["reason"] == "Trained"
    code, out, _ = mtm("plan", "desk")
    assert "nothing to run" in out
    assert "sampling probabilities, classification: urgency 0.500, intent 0.500" in out

    # the figures, and the page, of a local run with the same manifests
    assert mtm("report", "desk", "--to", "out")[0] == 0
    report = Report.model_validate_json((tmp_path / "out" / "report.json").read_bytes())
    manifests = all_done(resource, serve=False)
    seconds = {key[0]: item.seconds for key, item in manifests.items()}
    expected = build_report(resource, graph_of(resource, manifests, serve=False), seconds)
    assert report.written is not None
    assert report.model_copy(update={"written": None}).model_dump() == expected.model_dump()
    assert (tmp_path / "out" / "report.html").stat().st_size > 1000

    # the simulated pods never ran, so there is no log; the message has what the ConfigMap has
    cluster.kubectl("-n", ready, "delete", "pods", "--all", "--wait=false", "--force")
    until("the pods are gone", lambda: not cluster.get("pods", "-n", ready)["items"], 30)
    code, _, err = mtm("logs", "desk", "filter")
    assert code == 1
    assert re.search(r"no pod of filter is left.*ConfigMap desk-filter-\w+ has the result of 1 of 1 stages", err)
    code, _, err = mtm("logs", "desk", "mixtures")
    assert code == 2
    assert "nearest: mixture/classification" in err


def test_a_log_is_shown_and_followed(cluster, rest, ready, mtm, viewer, tmp_path):
    apply(cluster, ready, make_model("urgency"))
    node = f"node-{ready[-6:]}"
    logs = Logs(["first é\n", "second\n"], rest=["third\n"])
    with run_operator(cluster.admin, tmp_path, ready), kubelet(cluster, rest, node, logs):
        until("a pod stands", lambda: cluster.get("pods", "-n", ready)["items"], 60)
        (pod,) = cluster.get("pods", "-n", ready)["items"]
        name = pod["metadata"]["name"]
        path = f"/api/v1/namespaces/{ready}/pods/{name}"
        code, _, err = mtm("logs", "desk")
        assert code == 1
        assert "there is no log yet" in err
        target = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}}
        objects.post(rest, f"{path}/binding", target | {"target": {"kind": "Node", "name": node}})
        state = {"name": "stage", "image": "i", "imageID": "", "ready": True, "restartCount": 0}
        running = {"phase": "Running", "containerStatuses": [state | {"state": {"running": {}}}]}
        assert rest.patch(f"{path}/status", json={"status": running}, headers=objects.MERGE).is_success

        assert mtm("logs", "desk", "resolve")[:2] == (0, "first é\nsecond\n")
        assert mtm("logs", "desk", "--tail", "1")[:2] == (0, "second\n")
        command = [sys.executable, "-c", "from multitask_operator.cli import main; main()", "logs", "desk", "-f"]
        environment = os.environ | {"KUBECONFIG": str(viewer)}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
            assert process.stdout.readline() == "first é\n"
            assert process.stdout.readline() == "second\n"
            logs.more.set()
            assert process.stdout.read() == "third\n"
        assert process.returncode == 0
        assert json.loads(mtm("explain", "desk", "--output", "json")[1])["reason"] == "StagesRunning"


def test_a_quota_that_only_an_event_mentions_is_named(cluster, ready, mtm, tmp_path):
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "team"}, "spec": {"hard": {"pods": "0"}}}
    cluster.kubectl("-n", ready, "apply", "--server-side", "--filename", "-", stdin=quota)
    until(
        "the quota counts",
        lambda: "hard" in cluster.get("resourcequota", "team", "-n", ready).get("status", {}),
        30,
    )
    apply(cluster, ready, make_model("urgency"))
    with run_operator(cluster.admin, tmp_path, ready):

        def explained():
            return json.loads(mtm("explain", "desk", "--output", "json")[1])

        until("the quota is named", lambda: explained()["reason"] == "QuotaExceeded", 60)
        diagnosis = explained()
    assert diagnosis["blocked"]
    assert "exceeded quota: team" in diagnosis["message"]
    assert diagnosis["job"].startswith("desk-resolve-")


def test_wrong_names_and_missing_permissions_are_one_line(cluster, ready, mtm, viewer):
    apply(cluster, ready, make_model("urgency"))
    lines = [
        (("status", "desc"), 2, f"there is no MultiTaskModel 'desc' in namespace '{ready}'; nearest: desk"),
        (("status", "zzz"), 2, "it has: desk"),
        (("explain", "desk", "-n", "default"), 2, "you may not get multitaskmodels.multitask.dev"),
        (("logs", "desk"), 2, "desk has no Jobs yet; `mtm explain desk"),
    ]
    for arguments, expected, message in lines:
        code, _, err = mtm(*arguments)
        assert code == expected
        assert message in err
        assert err.count("\n") == 1
    cluster.kubectl("-n", ready, "delete", "multitaskmodels", "desk")
    assert "it has none" in mtm("status", "desk")[2]


def test_kubectl_finds_it_as_a_plugin(cluster, ready, viewer, tmp_path):
    apply(cluster, ready, make_model("urgency"))
    plugin = tmp_path / "kubectl-mtm"
    plugin.write_text(f"#!{sys.executable}\nfrom multitask_operator.cli import kubectl_plugin\nkubectl_plugin()\n")
    plugin.chmod(0o755)
    # not through `cluster.kubectl`: a plugin's options come after its name
    done = subprocess.run(
        [binaries.path("kubectl"), "mtm", "status", "desk"],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "KUBECONFIG": str(viewer)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "no status yet" in done.stdout, done.stderr


def test_a_cluster_without_the_crds_is_told_apart_from_one_without_the_model(own_cluster, capsys):
    client = own_cluster.client
    client.kubectl("delete", "crd", "multitaskmodels.multitask.dev")
    with client.rest() as rest:
        path = "/apis/multitask.dev/v1alpha1/multitaskmodels"
        until("the kind is gone", lambda: rest.get(path).status_code == httpx.codes.NOT_FOUND, 30)
    assert cli.invoke(["status", "desk", "--kubeconfig", str(client.admin)]) == 2
    assert "does not know the kind MultiTaskModel; install the operator's chart" in capsys.readouterr().err
    own_cluster.stop_api_server()
    assert cli.invoke(["status", "desk", "--kubeconfig", str(client.admin)]) == 1
    assert "no answer from the API server" in capsys.readouterr().err
