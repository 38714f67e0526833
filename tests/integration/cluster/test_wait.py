"""``kubectl wait``, as pipelines use it, while the operator works against a real API server."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from devcluster import objects
from support.cluster.fake_pods import FakePods
from support.cluster.model_factory import apply, make_model
from support.cluster.operator_process import run_operator


@pytest.fixture
def ready(rest, namespace):
    """A namespace with the claim that the models name."""
    objects.claim(rest, namespace, "models")
    return namespace


def wait(cluster, namespace, condition, seconds=240):
    """Whether the condition was met."""
    arguments = ("wait", "mtm/desk", f"--for=condition={condition}", f"--timeout={seconds}s", "--namespace", namespace)
    return cluster.kubectl(*arguments, check=False).exit_code == 0


def test_it_ends_with_the_training_and_not_before_and_not_with_that_of_an_earlier_spec(cluster, ready, tmp_path):
    with ThreadPoolExecutor() as threads:
        first = make_model("urgency")
        apply(cluster, ready, first)
        trained = threads.submit(wait, cluster, ready, "Trained")
        with FakePods(cluster, ready, first) as pods, run_operator(cluster.admin, tmp_path, ready) as running:
            running.until("kubectl waits no longer", lambda: not pods.run_waiting() and trained.done())
            assert trained.result()
            assert wait(cluster, ready, "Complete", 30)
            second = pods.resource = make_model("urgency", "intent")
            apply(cluster, ready, second)
            assert not wait(cluster, ready, "Trained", 1)
            again = threads.submit(wait, cluster, ready, "Trained")
            running.until("a baseline of the new task has run", lambda: not pods.run_waiting() and again.done())
            assert again.result()
            assert any(stage.startswith("baseline/intent") for stage in pods.ran)


def test_a_failure_can_be_waited_for(cluster, rest, ready, tmp_path):
    resource = make_model("urgency")
    apply(cluster, ready, resource)
    with FakePods(cluster, ready, resource) as pods, run_operator(cluster.admin, tmp_path, ready) as running:
        running.until("a pod waits", lambda: bool(pods.waiting()))
        (pod,) = pods.waiting()
        job = pod["metadata"]["labels"]["batch.kubernetes.io/job-name"]
        path = f"/apis/batch/v1/namespaces/{ready}/jobs/{job}"
        with ThreadPoolExecutor() as threads:
            failed = threads.submit(wait, cluster, ready, "Failed")

            def fail():
                for each in pods.waiting():
                    pods.finish_pod(each, "Failed", exitCode=2, reason="Error")
                return failed.done()

            running.until("kubectl waits no longer", fail)
            assert failed.result()
        conditions = objects.get(rest, path)["status"]["conditions"]
        assert "Failed" in [each["type"] for each in conditions]
        assert wait(cluster, ready, "Stalled", 30)
