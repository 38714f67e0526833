"""``stages.mixture.start: Previous`` in a cluster: the choice outlives the ConfigMaps that it was made from."""

from __future__ import annotations

import json

import pytest

from multitask_api.cluster import GC_ANNOTATION
from multitask_api.stage_io.packing import manifest_key, pack_manifest
from multitask_operator.commands.cluster.plan import summarize
from multitask_operator.reconciler.gc.order import garbage_order
from multitask_operator.reconciler.state.model_state import ModelState
from support.graph_builders import manifest, task
from support.simulation import Cluster, run_until

NAME = "mixture/classification"
TWO = ("urgency", "intent")
WARM = {"stages": {"mixture": {"start": "Previous"}}}


def tasks(*names):
    return [task(name) for name in names]


def state(cluster):
    return ModelState.of(cluster.observe(), cluster.now)


def mixture(cluster):
    return state(cluster).plan.graph[NAME]


def stages_of(names):
    return sorted({name.removeprefix("desk-").rpartition("-")[0] for name in names})


@pytest.fixture
def grown():
    """Two tasks are trained, and a third one was added: the operator waits for its mixture; and the mixture before."""
    cluster = Cluster(*tasks(*TWO))
    cluster.to_the_end()
    before = mixture(cluster).digest
    cluster.edit(*tasks(*TWO, "spam"), **WARM)
    return cluster, before


def test_only_the_new_baseline_and_the_mixture_are_trained(grown):
    cluster, before = grown
    seen = len(cluster.job_runs)
    cluster.to_the_end()
    assert stages_of(cluster.job_runs[seen:]) == [
        "baseline", "bundle", "evaluate", "export", "filter", "mixture", "prepare", "resolve",
    ]  # fmt: skip
    node = mixture(cluster)
    assert node.start.key == (NAME, before)
    assert node.manifest.result["start"]["digest"] == before


def test_the_order_has_the_earlier_mixture_and_the_plan_says_so(grown):
    cluster, before = grown
    run_until(cluster, "mixture")
    [name] = cluster.jobs("mixture")
    [order] = json.loads(cluster.objects["ConfigMap", name]["data"]["orders.json"])["orders"]
    assert order["inputs"][NAME].endswith(f"/stages/{NAME}/{before}")
    assert not [stage for stage in order["inputs"] if stage.startswith("high-resource")]
    assert f"{NAME} begins with {NAME} {before}, trained on intent, urgency" in summarize(state(cluster)).notes


def test_the_choice_is_the_same_at_every_step_and_after_it(grown):
    cluster, before = grown
    chosen, digests = set(), set()
    for _ in range(60):
        cluster.settle()
        if state(cluster).is_resolved:
            node = mixture(cluster)
            chosen.add(node.start.key)
            digests |= {node.digest} - {None}
        jobs = cluster.jobs()
        if not jobs:
            break
        cluster.finish(jobs[0])
    assert chosen == {(NAME, before)}
    assert len(digests) == 1
    # What it began with is remembered by nobody but the mixture itself now.
    digests_known = {key for job in state(cluster).stage_jobs for key in job.keys if key[0] == NAME}
    assert digests_known == {(NAME, mixture(cluster).digest)}


def test_an_edit_of_something_else_trains_nothing(grown):
    cluster, _ = grown
    cluster.to_the_end()
    seen = len(cluster.job_runs)
    cluster.edit(*tasks(*TWO, "spam"), **WARM, serving={"replicas": 4})
    cluster.to_the_end()
    assert stages_of(cluster.job_runs[seen:]) == ["resolve"]


def test_a_mixture_that_was_at_work_during_the_edit_goes_on_and_is_the_start():
    cluster = Cluster(*tasks(*TWO))
    run_until(cluster, "mixture")
    node = mixture(cluster)
    result = pack_manifest(manifest(node, cluster.resource))
    [at_work] = cluster.jobs("mixture")
    cluster.edit(*tasks(*TWO, "spam"), **WARM)
    cluster.settle()
    while not cluster.jobs("baseline"):
        cluster.finish(next(name for name in cluster.jobs() if name != at_work))
        cluster.settle()
    assert at_work in cluster.jobs("mixture")
    cluster.objects["ConfigMap", at_work]["binaryData"] = {manifest_key(node.digest): result}
    cluster.end(at_work, "Complete")
    cluster.to_the_end()
    assert mixture(cluster).start.key == (NAME, node.digest)
    assert mixture(cluster).manifest is not None


def test_garbage_collection_keeps_the_start_until_the_mixture_is_done(grown):
    cluster, before = grown
    run_until(cluster, "mixture")
    assert f"{NAME}/{before}" in garbage_order(state(cluster), dry_run=True).keep
    cluster.to_the_end()
    [kept] = [address for address in cluster.stored if address.endswith(f"{NAME}/{before}")]
    cluster.annotate(GC_ANNOTATION, "remove now")
    cluster.to_the_end()
    assert kept not in cluster.stored
    assert mixture(cluster).start.key == (NAME, before)
