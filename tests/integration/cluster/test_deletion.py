"""The end of a model on a real API server, with its garbage collector and its namespace controller."""

from __future__ import annotations

import pytest

from devcluster import objects
from devcluster.chart import rendered
from devcluster.processes import until
from multitask_api.cluster import FINALIZER, MODEL_LABEL
from support.cluster.fake_pods import FakePods
from support.cluster.model_factory import MOST_WRITES, apply, job_names, make_model
from support.cluster.operator_process import run_operator
from support.simulation import REMOVED, STORAGE

OWNED = "jobs,pods,configmaps,services,serviceaccounts,roles,rolebindings"


@pytest.fixture
def ready(rest, namespace):
    """A namespace with the claim that the models name."""
    objects.claim(rest, namespace, "models")
    return namespace


@pytest.fixture
def least(cluster, ready):
    """The kubeconfig of an account that has in the namespace what the chart gives for it, and nothing elsewhere."""
    objects_of_chart = chart(ready, "ServiceAccount", "Role", "RoleBinding")
    cluster.kubectl("-n", ready, "apply", "--filename", "-", stdin=objects_of_chart)
    return cluster.service_account(ready, objects_of_chart[0]["metadata"]["name"])


@pytest.fixture
def from_outside(cluster, ready):
    """The kubeconfig of a user with the same rights, given from outside of the namespace; it cannot read namespaces."""
    (role,) = chart(ready, "Role")
    name = f"operator-{ready}"
    everywhere = {"apiVersion": role["apiVersion"], "kind": "ClusterRole", "rules": role["rules"]}
    cluster.kubectl("apply", "--filename", "-", stdin=everywhere | {"metadata": {"name": name}})
    cluster.kubectl("create", "clusterrolebinding", name, f"--clusterrole={name}", f"--user={name}")
    return cluster.user(name)


def chart(namespace, *kinds):
    """What the chart renders of these kinds for an operator of one namespace, in it."""
    settings = f"namespaces={{{namespace}}},aggregatedRoles=false,crds.enabled=false"
    settings += ",serving.enabled=false,gateway.enabled=false"
    return [item for item in rendered("--set", settings, namespace=namespace) if item["kind"] in kinds]


def is_there(cluster, namespace, name="desk"):
    return cluster.kubectl("-n", namespace, "get", "mtm", name, check=False).exit_code == 0


def owned(cluster, namespace):
    """kind/name of everything that carries the model's label."""
    names = cluster.kubectl("-n", namespace, "get", OWNED, "-l", f"{MODEL_LABEL}=desk", "--output", "name").stdout
    return sorted(names.split())


def delete(cluster, namespace, *options):
    cluster.kubectl("-n", namespace, "delete", "mtm", "desk", "--wait=false", *options)


def jobs_of(cluster, namespace, kind):
    return [name for name in owned(cluster, namespace) if name.startswith(f"job.batch/desk-{kind}-")]


def gone(cluster, namespace, pods):
    pods.run_waiting()
    return not is_there(cluster, namespace)


def event(cluster, namespace, reason):
    """The message of the one Event of that reason; it is posted after the model is gone."""

    def messages():
        events = cluster.get("events", "--namespace", namespace)["items"]
        return [item["message"] for item in events if item["reason"] == reason]

    until(f"an Event {reason}", messages, 60)
    (message,) = messages()
    return message


def finalizers(cluster, namespace):
    return cluster.get("mtm", "desk", "--namespace", namespace)["metadata"].get("finalizers", [])


def baselines_run(cluster, namespace, pods):
    """The model is trained until its first baseline has a Job, and no pod of it has begun."""

    def there():
        if jobs_of(cluster, namespace, "baseline"):
            return True
        pods.run_waiting(leave=("baseline",))  # its Job may come between the two
        return False

    until("a baseline has a Job", there, 120)


def test_a_model_that_retains_its_artifacts_goes_at_once_and_leaves_nothing_behind(cluster, ready, tmp_path):
    resource = make_model("urgency")
    apply(cluster, ready, resource)
    with FakePods(cluster, ready, resource) as pods, run_operator(cluster.admin, tmp_path, ready):
        baselines_run(cluster, ready, pods)
        assert finalizers(cluster, ready) == []
        delete(cluster, ready)
        assert not is_there(cluster, ready)
        until("nothing of it is left", lambda: owned(cluster, ready) == [], 60)
    assert pods.cleaned == []


@pytest.mark.parametrize("cascade", ["background", "foreground", "orphan"])
def test_a_model_that_does_not_is_cleaned_up_behind_first(cluster, ready, least, tmp_path, cascade):
    resource, mark = make_model("urgency", storage=REMOVED), cluster.audit_mark()
    apply(cluster, ready, resource)
    with FakePods(cluster, ready, resource) as pods, run_operator(least, tmp_path, ready) as running:
        baselines_run(cluster, ready, pods)
        assert finalizers(cluster, ready) == [FINALIZER]
        delete(cluster, ready, f"--cascade={cascade}")
        until("there is a clean-up", lambda: jobs_of(cluster, ready, "clean-up"), 60)
        assert jobs_of(cluster, ready, "baseline") == []
        until("the model is gone", lambda: gone(cluster, ready, pods), 60)
        # Orphans are what the user asked for, all but the clean-up's own and what was stopped.
        ended = tuple(f"job.batch/desk-{kind}-" for kind in ("resolve", "prepare", "base"))
        kept = ("configmap", "serviceaccount", "role", "pod/desk-", *ended)
        left = kept if cascade == "orphan" else ("nothing",)
        until(
            "nothing of it is left",
            lambda: not [name for name in owned(cluster, ready) if not name.startswith(left) or "clean-up" in name],
            60,
        )
        message = event(cluster, ready, "CleanedUp")
    assert pods.cleaned == [{"model": f"{ready}/desk", "storage": "/multitask/claims/models/desk"}]
    assert set(job_names(cluster, mark).values()) == {1}
    assert "forbidden" not in running.log_text(), "the chart's Role is too small"
    assert message == "Removed at pvc://models/desk: 1 results, 2 files with 3 B."


def test_retain_may_be_changed_at_any_time(cluster, ready, tmp_path):
    apply(cluster, ready, make_model("urgency"))
    with run_operator(cluster.admin, tmp_path, ready):
        for retain, expected in ((False, [FINALIZER]), (True, []), (False, [FINALIZER])):
            apply(cluster, ready, make_model("urgency", storage=STORAGE | {"retain": retain}))
            until(f"retain: {retain}", lambda expected=expected: finalizers(cluster, ready) == expected, 60)
        cluster.kubectl("-n", ready, "delete", "pvc", "models", "--wait=false")
        delete(cluster, ready)
        until("the model is gone", lambda: not is_there(cluster, ready), 60)
        message = event(cluster, ready, "CleanUpSkipped")
    assert "PersistentVolumeClaim 'models'" in message


def test_two_models_of_one_address_leave_each_other_what_is_there(cluster, ready, tmp_path):
    apply(cluster, ready, make_model("urgency", storage=REMOVED))
    apply(cluster, ready, make_model("urgency", name="other"))
    with run_operator(cluster.admin, tmp_path, ready):
        until("it has its finalizer", lambda: finalizers(cluster, ready) == [FINALIZER], 60)
        delete(cluster, ready)
        until("the model is gone", lambda: not is_there(cluster, ready), 60)
        message = event(cluster, ready, "CleanUpSkipped")
    assert message.startswith("MultiTaskModel 'other' uses pvc://models/desk.")


def test_killed_after_every_write_a_deletion_comes_to_its_end(cluster, ready, tmp_path):
    resource, mark = make_model("urgency", storage=REMOVED), cluster.audit_mark()
    apply(cluster, ready, resource)
    kills = 0
    with FakePods(cluster, ready, resource) as pods:
        with run_operator(cluster.admin, tmp_path, ready):
            baselines_run(cluster, ready, pods)
        delete(cluster, ready)
        while kills < MOST_WRITES and not gone(cluster, ready, pods):
            with run_operator(cluster.admin, tmp_path, ready, killed_after_writes=1) as running:
                running.until(
                    f"a write after {kills} kills",
                    lambda running=running: gone(cluster, ready, pods) or running.process.poll() is not None,
                )
                kills += running.process.poll() is not None
    assert 3 <= kills < 20  # at least of the stage's Job, and the clean-up's ConfigMap and Job
    assert len(pods.cleaned) == 1
    assert set(job_names(cluster, mark).values()) == {1}
    until("nothing of it is left", lambda: owned(cluster, ready) == [], 60)


@pytest.mark.parametrize("reads_namespaces", [True, False])
def test_a_namespace_that_goes_is_not_held(cluster, ready, from_outside, tmp_path, reads_namespaces):
    # A claim would be gone before, and a namespace waits long for pods.
    apply(cluster, ready, make_model("urgency", storage={"uri": "s3://bucket/desk", "retain": False}, suspend=True))
    config = cluster.admin if reads_namespaces else from_outside
    with run_operator(config, tmp_path, ready):
        until("it has its finalizer", lambda: finalizers(cluster, ready) == [FINALIZER], 60)
        cluster.kubectl("delete", "namespace", ready, "--wait=false")
        there = ("get", "namespace", ready, "--ignore-not-found", "--output", "name")
        until("the namespace is gone", lambda: not cluster.kubectl(*there).stdout, 120)
