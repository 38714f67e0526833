"""A Job sends golden requests in place of traffic. A task that goes back meanwhile must not keep the others waiting."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from multitask_api.serving_io.names import REVISION_LABEL
from multitask_api.serving_io.verify import VERIFY_REVISION
from multitask_operator.objects.serving.verification import GOLDEN_ANNOTATION
from multitask_operator.reconciler.serving.verification import obsolete_verifications
from multitask_operator.reconciler.state.stage_job import stage_jobs
from multitask_operator.rollout import GoldenJob
from support.graph_builders import task
from support.simulated_servers import SERVING_SETTINGS, ServedCluster


@pytest.fixture(scope="module")
def being_verified():
    """A cluster whose first revision has an open Job that asks for two tasks."""
    return ServedCluster(task("urgency"), task("intent")).serve_until_verified()


BOTH = ("urgency", "intent")
ROWS = [
    ("an attempt failed, and a task has gone back", 1, "verify", ("urgency",), True),
    ("all attempts failed, and a task has gone back", 4, "verify", ("urgency",), True),
    ("no attempt has failed yet", 0, "verify", ("urgency",), False),
    ("an attempt failed for another reason: all tasks are still asked", 1, "verify", BOTH, False),
    ("one more task is asked: it would not fail for that", 1, "verify", (*BOTH, "reply"), False),
    ("another Job is wanted now", 1, "step-1", ("urgency",), False),
    ("none is wanted now", 1, None, (), False),
]


@pytest.mark.parametrize(
    ("failed_pods", "key", "asked", "is_made_again"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS]
)
def test_a_job_that_asks_for_a_task_that_has_gone_back_is_made_again(
    being_verified, failed_pods, key, asked, is_made_again
):
    observed = being_verified.observe()
    (job,) = stage_jobs(observed, (VERIFY_REVISION,))
    assert job.job["metadata"]["annotations"][GOLDEN_ANNOTATION] == "verify"
    job.job["status"] = {"failed": failed_pods}
    revision = job.job["metadata"]["labels"][REVISION_LABEL]
    golden = None if key is None else GoldenJob(revision, key, asked, "")
    state = SimpleNamespace(verify_jobs=(job,), now=being_verified.now)
    deleted = list(obsolete_verifications(state, SERVING_SETTINGS, {revision}, golden))
    assert [(each.kind, each.name) for each in deleted] == (
        [("Job", job.name), ("ConfigMap", job.name)] if is_made_again else []
    )
