"""`mtm gc` in a cluster: what has to stay, when nothing may be removed, and how an order ends."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest

from multitask_api.cluster import (
    FAILURE_KEY,
    GC,
    GC_ANNOTATION,
    GC_KEY,
    KIND_LABEL,
    MANIFESTS_KEY,
    REMOVED_KEY,
    GarbageOrder,
)
from multitask_api.serving_io.names import ROLLBACK_ANNOTATION
from multitask_api.serving_io.revision import REVISION_KEY, Revision
from multitask_api.stage_io.packing import pack_manifests
from multitask_operator.objects.names import Owner, gc_name
from multitask_operator.reconciler import reconcile
from multitask_operator.reconciler.actions import Create, Event
from multitask_operator.reconciler.gc import answer_of
from multitask_operator.reconciler.state.accessors import format_time
from multitask_operator.reconciler.state.cluster_state import RejectedWrite
from multitask_operator.reconciler.state.model_state import ModelState
from multitask_operator.reconciler.state.revision_state import revision_states
from multitask_operator.reconciler.state.stage_job import stage_jobs
from support.graph_builders import task
from support.simulated_servers import ServedCluster
from support.simulation import SETTINGS, STORAGE, Cluster, run_until

ORDER, DRY = "remove 2026-11-28T05:00:00Z", "list 2026-11-28T05:00:01Z"
URGENCY, INTENT = task("urgency"), task("intent")
KNOWN = {}


def made(key, make):
    """What it takes to get there is done once."""
    if key not in KNOWN:
        KNOWN[key] = make()
    return copy.deepcopy(KNOWN[key])


def trained(*tasks, **spec):
    def make():
        cluster = Cluster(*(tasks or (URGENCY, INTENT)), **spec)
        cluster.to_the_end()
        return cluster

    return made(("trained", repr((tasks, spec))), make)


def served():
    def make():
        cluster = ServedCluster(URGENCY, INTENT)
        cluster.serve()
        return cluster

    return made("served", make)


def retrained():
    """A model that serves its second revision; the first is kept."""

    def make():
        cluster = served()
        cluster.edit(URGENCY, INTENT, training={"seed": 5})
        cluster.serve()
        return cluster

    return made("retrained", make)


def answer(cluster, order=ORDER):
    """How the order ended; None while it is carried out."""
    return answer_of(cluster.objects.get(("ConfigMap", gc_name(Owner.of(cluster.model), order))))


def ordered(cluster, order=ORDER):
    """The order is annotated and everything settles; what the Job has to do, or None if there is no Job."""
    cluster.annotate(GC_ANNOTATION, order)
    cluster.settle()
    jobs = cluster.jobs(GC)
    if not jobs:
        return None
    (name,) = jobs
    return GarbageOrder.model_validate_json(cluster.objects["ConfigMap", name]["data"][GC_KEY])


def done(cluster):
    """The one Job of an order completes."""
    (name,) = cluster.jobs(GC)
    cluster.finish(name)
    cluster.settle()
    return name


def names(cluster):
    return {address.partition("/stages/")[2] for address in cluster.stored}


def records(cluster):
    states = revision_states(cluster.observe()).values()
    return {state.name: state.record for state in states if state.record is not None}


# -- what stays --------------------------------------------------------------------------------------------------------


def test_what_the_plan_uses_stays_and_all_else_goes():
    cluster = trained()
    used = names(cluster)
    cluster.stored |= {"/multitask/claims/models/desk/stages/base/000000000000"}
    order = ordered(cluster)

    assert set(order.keep) == used
    assert (order.model, order.storage) == ("ml/desk", "/multitask/claims/models/desk")
    assert (order.unfinished, order.dry_run) == ((), False)
    done(cluster)
    assert names(cluster) == used
    assert answer(cluster).phase == "Done"
    assert answer(cluster).message == "1 results, 1 files with 0 B removed, which nothing used."
    assert ("Normal", "GarbageCollected") in cluster.events


def test_after_an_edit_the_results_of_the_former_plan_go_but_not_what_a_kept_revision_serves():
    cluster = retrained()
    exports = {name for name in names(cluster) if name.startswith("export/")}
    kept = {record.artifact.removeprefix("stages/") for record in records(cluster).values()}
    assert len(exports) == 2
    assert kept == exports
    before = names(cluster)
    order = ordered(cluster)
    assert exports <= set(order.keep)
    done(cluster)

    assert exports < names(cluster) < before
    graph = ModelState.of(cluster.observe(), cluster.now).plan.graph
    assert {f"{node.name}/{node.digest}" for node in graph.nodes if node.manifest} <= names(cluster)


def test_a_rollback_after_it_finds_what_it_serves():
    cluster = retrained()
    first = min(records(cluster).values(), key=lambda record: record.generation)
    ordered(cluster)
    done(cluster)
    cluster.annotate(ROLLBACK_ANNOTATION, first.revision)
    cluster.serve()
    assert list(cluster.weights["urgency"]) == [first.revision]
    assert first.artifact.removeprefix("stages/") in names(cluster)


def test_a_stage_whose_digest_is_not_known_keeps_all_its_results_and_checkpoints():
    cluster = Cluster(URGENCY, INTENT)
    run_until(cluster, "baseline")
    cluster.edit(URGENCY, INTENT, suspend=True)
    cluster.settle()
    order = ordered(cluster)
    assert {"mixture/classification", "export", "bundle"} <= set(order.keep_stages)
    assert {name.rpartition("/")[0] for name in order.unfinished} == {
        "baseline/urgency/seed-17",
        "baseline/intent/seed-17",
    }
    assert set(order.unfinished) < set(order.keep)


def test_what_a_failed_stage_needs_stays_and_its_checkpoint():
    cluster = Cluster(URGENCY)
    run_until(cluster, "baseline")
    cluster.end(cluster.jobs("baseline")[0], "Failed", "no space left")
    cluster.settle()
    (unfinished,) = ordered(cluster).unfinished
    assert unfinished.startswith("baseline/urgency/seed-17/")


# -- when nothing may be removed ---------------------------------------------------------------------------------------


def running_stage():
    cluster = Cluster(URGENCY)
    run_until(cluster, "baseline")
    return cluster


def never_resolved():
    cluster = Cluster(URGENCY, suspend=True)
    cluster.settle()
    return cluster


def edited_and_suspended():
    cluster = trained()
    cluster.edit(URGENCY, suspend=True)
    return cluster


def edited():
    cluster = trained()
    cluster.edit(URGENCY)
    return cluster


def sharing(uri):
    def make():
        cluster = trained()
        other = {"metadata": {"name": "other"}, "spec": {"storage": {"uri": uri}}}
        cluster.sibling_models = (other,)
        return cluster

    return make


def reading():
    cluster = trained()
    data = {"train": {"uri": "pvc://models/desk/stages/prepare"}}
    cluster.sibling_models = ({"metadata": {"name": "other"}, "spec": {"tasks": [{"data": data}]}},)
    return cluster


def unreadable_revision():
    cluster = served()
    (key,) = [key for key, item in cluster.objects.items() if REVISION_KEY in item.get("data", {})]
    cluster.objects[key]["data"][REVISION_KEY] = "{}"
    return cluster


def ending_pod():
    cluster = trained()
    labels = {KIND_LABEL: "mixture", "batch.kubernetes.io/job-name": "desk-mixture-0000"}
    reference = {"kind": "Job", "name": "desk-mixture-0000", "uid": "u", "controller": True}
    metadata = {"name": "desk-mixture-0000-x", "uid": "u-pod", "labels": labels, "ownerReferences": [reference]}
    metadata |= {"deletionTimestamp": format_time(cluster.now), "creationTimestamp": format_time(cluster.now)}
    cluster.objects["Pod", metadata["name"]] = {"kind": "Pod", "metadata": metadata, "status": {"phase": "Running"}}
    return cluster


def claim_gone():
    cluster = trained()
    cluster.pvcs = {}
    return cluster


REFUSALS = [
    ("a stage runs", running_stage, "at work: desk-baseline-"),
    ("a new generation is not resolved yet", edited, "edited"),
    ("suspended before anything was looked at", never_resolved, "not been looked at yet"),
    ("suspended with an edit of what is trained", edited_and_suspended, "not been looked at yet"),
    ("another model stores there", sharing("pvc://models/desk"), "'other' uses pvc://models/desk."),
    ("another model stores above", sharing("pvc://models"), "'other' uses pvc://models."),
    ("another model reads from there", reading, "'other' uses pvc://models/desk/stages/prepare."),
    ("the record of a revision is unreadable", unreadable_revision, "The record of revision"),
    ("a stopped stage's pod still writes", ending_pod, "at work: desk-mixture-0000-x"),
    ("the claim is gone", claim_gone, "PersistentVolumeClaim 'models' does not exist"),
]


@pytest.mark.parametrize(("make", "words"), [row[1:] for row in REFUSALS], ids=[row[0] for row in REFUSALS])
def test_nothing_is_removed_while(make, words):
    cluster = make()
    cluster.annotate(GC_ANNOTATION, ORDER)
    cluster.reconcile()
    assert answer(cluster).phase == "Refused"
    assert words in answer(cluster).message
    assert ("Warning", "GarbageNotCollected") in cluster.events
    assert not [name for name in cluster.job_runs if "-gc-" in name]
    if not cluster.jobs():  # what kept it from it is over: a refused order is not carried out later
        cluster.sibling_models = ()
        cluster.settle()
        assert not [name for name in cluster.job_runs if "-gc-" in name]


def test_a_model_that_shares_with_one_of_another_address_is_not_refused():
    cluster = sharing("pvc://models/desk-2")()
    assert ordered(cluster) is not None


def test_a_stage_that_has_reported_all_and_whose_pod_is_about_to_end_is_in_nobodys_way():
    cluster = trained()
    (export,) = [name for name in cluster.job_runs if "-export-" in name]
    del cluster.objects["Job", export]["status"]
    cluster.annotate(GC_ANNOTATION, ORDER)
    cluster.settle()
    assert answer(cluster) is None
    assert cluster.jobs(GC)


@pytest.mark.parametrize("value", ["", "sweep 2026", "remove-all"])
def test_an_order_of_other_words_is_refused(value):
    cluster = trained()
    cluster.annotate(GC_ANNOTATION, value)
    cluster.settle()
    assert answer(cluster, value).phase == "Refused"
    assert not cluster.jobs(GC)


# -- how an order goes -------------------------------------------------------------------------------------------------


def test_a_dry_run_removes_nothing_and_posts_no_event():
    cluster = trained()
    cluster.stored |= {"/multitask/claims/models/desk/stages/base/000000000000"}
    before = set(cluster.stored)
    assert ordered(cluster, DRY).dry_run
    done(cluster)
    assert cluster.stored == before
    assert answer(cluster, DRY).message == "1 results, 1 files with 0 B would be removed."
    assert not [event for event in cluster.events if event[1].startswith("Garbage")]


def test_each_value_is_carried_out_once():
    cluster = trained()
    for order in (DRY, ORDER):
        ordered(cluster, order)
        done(cluster)
        cluster.settle()
    assert len([name for name in cluster.job_runs if "-gc-" in name]) == 2
    # Only the last has its Job and ConfigMap.
    assert [name for kind, name in cluster.objects if "-gc-" in name and kind in ("Job", "ConfigMap")] == [
        gc_name(Owner.of(cluster.model), ORDER)
    ] * 2


def test_a_second_order_ends_the_first_and_waits_for_its_pod():
    cluster = trained()
    ordered(cluster, DRY)
    first = gc_name(Owner.of(cluster.model), DRY)
    reference = {"kind": "Job", "name": first, "uid": "u", "controller": True}
    labels = {KIND_LABEL: GC, "batch.kubernetes.io/job-name": first}
    metadata = {"name": f"{first}-x", "uid": "u-pod", "labels": labels, "ownerReferences": [reference]}
    cluster.objects["Pod", metadata["name"]] = {
        "kind": "Pod",
        "metadata": metadata | {"creationTimestamp": format_time(cluster.now)},
        "status": {"phase": "Running"},
    }
    assert ordered(cluster, ORDER) is None
    cluster.objects["Pod", metadata["name"]]["status"]["phase"] = "Failed"
    cluster.settle()
    assert cluster.jobs(GC) == [gc_name(Owner.of(cluster.model), ORDER)]


def test_without_the_annotation_its_job_goes():
    cluster = trained()
    ordered(cluster)
    del cluster.model["metadata"]["annotations"][GC_ANNOTATION]
    cluster.settle()
    assert not [name for _, name in cluster.objects if "-gc-" in name]


EDITS = {
    "another seed": {"training": {"seed": 5}},
    "another number of servers": {"serving": {"replicas": 3}},
    "suspended and resumed": {"suspend": False},
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_meanwhile_ends_it_and_no_stage_begins_before_its_pod_has_ended(edit):
    cluster = trained()
    ordered(cluster)
    (name,) = cluster.jobs(GC)
    labels = {KIND_LABEL: GC, "batch.kubernetes.io/job-name": name}
    reference = {"kind": "Job", "name": name, "uid": "u", "controller": True}
    metadata = {"name": f"{name}-x", "uid": "u-pod", "labels": labels, "ownerReferences": [reference]}
    pod = {"kind": "Pod", "metadata": metadata | {"creationTimestamp": format_time(cluster.now)}}
    cluster.objects["Pod", metadata["name"]] = pod | {"status": {"phase": "Running"}}
    cluster.edit(URGENCY, INTENT, **EDITS[edit])
    cluster.settle()
    assert cluster.jobs() == []
    assert answer(cluster).phase == "Refused"
    cluster.objects["Pod", metadata["name"]]["status"]["phase"] = "Failed"
    cluster.settle()
    assert cluster.jobs("resolve")
    cluster.to_the_end()
    assert cluster.model["status"]["stage"] == "Trained"


def test_a_job_that_has_reported_and_does_not_end_holds_no_stage_up():
    cluster = trained()
    ordered(cluster)
    (name,) = cluster.jobs(GC)
    cluster.finish(name)
    del cluster.objects["Job", name]["status"]  # a sidecar keeps its pod
    cluster.settle()
    assert answer(cluster).phase == "Done"
    cluster.edit(URGENCY, INTENT, training={"seed": 5})
    cluster.settle()
    assert cluster.jobs("resolve")


def test_the_pod_may_report_in_its_own_configmap_alone():
    cluster = trained()
    ordered(cluster)
    (name,) = cluster.jobs(GC)
    (rule,) = cluster.objects["Role", "desk-gc"]["rules"]
    assert (rule["resourceNames"], rule["verbs"]) == ([name], ["get", "patch"])


def test_the_installed_image_runs_it_whatever_the_run_began_with():
    cluster = trained()
    cluster.settings = replace(SETTINGS, trainer_image="registry.example/trainer:2")
    cluster.images["registry.example/trainer:2"] = cluster.images.get(SETTINGS.trainer_image)
    ordered(cluster)
    (name,) = cluster.jobs(GC)
    (container,) = cluster.objects["Job", name]["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "registry.example/trainer:2"


FAILURES = [
    ("Failed", {"stage": "gc", "kind": "Retryable", "message": "s3 did not answer", "digest": ""}, "s3 did not answer"),
    ("Failed", None, "the node went"),
    ("Complete", None, "its report was lost"),
]


@pytest.mark.parametrize(("condition", "failure", "words"), FAILURES)
def test_a_job_that_ends_without_a_report_has_failed(condition, failure, words):
    cluster = trained()
    ordered(cluster)
    (name,) = cluster.jobs(GC)
    if failure is not None:
        cluster.objects["ConfigMap", name]["data"][FAILURE_KEY] = json.dumps(failure)
    cluster.end(name, condition, "the node went")
    cluster.settle()
    assert answer(cluster).phase == "Failed"
    assert words in answer(cluster).message
    assert ("Warning", "GarbageNotCollected") in cluster.events
    assert cluster.model["status"]["stage"] == "Trained"


@pytest.mark.parametrize("actions", range(6))
def test_killed_after_any_action_it_comes_to_its_end_and_removes_once(actions):
    cluster = trained()
    cluster.stored |= {"/multitask/claims/models/desk/stages/base/000000000000"}
    cluster.annotate(GC_ANNOTATION, ORDER)
    cluster.reconcile(actions=actions)
    cluster.settle()
    done(cluster)
    assert answer(cluster).phase == "Done"
    assert len([name for name in cluster.job_runs if "-gc-" in name]) == 1
    assert cluster.events.count(("Normal", "GarbageCollected")) == 1


def test_a_stale_decision_makes_no_second_job():
    cluster = trained()
    cluster.annotate(GC_ANNOTATION, ORDER)
    stale = cluster.observe()
    cluster.settle()
    cluster.reconcile(stale=stale)
    cluster.reconcile(stale=stale)
    assert len([name for name in cluster.job_runs if "-gc-" in name]) == 1


def test_a_job_that_is_created_again_never_has_an_order_of_before():
    cluster = trained()
    ordered(cluster)
    (name,) = cluster.jobs(GC)
    del cluster.objects["Job", name]
    configmap = cluster.objects["ConfigMap", name]
    order = json.loads(configmap["data"][GC_KEY])
    configmap["data"][GC_KEY] = json.dumps(order | {"keep": order["keep"][1:]})
    cluster.settle()
    assert not cluster.jobs(GC)
    assert answer(cluster).message.startswith("What the model uses has changed meanwhile")


def test_a_write_that_is_refused_changes_nothing():
    cluster = trained()
    cluster.annotate(GC_ANNOTATION, ORDER)
    refused = RejectedWrite("create", "Job", "desk-gc-1", 403, "Forbidden", "exceeded quota")
    result = reconcile(replace(cluster.observe(), rejected_writes=(refused,)), SETTINGS, cluster.now)
    assert not [action for action in result.actions if isinstance(action, Create | Event) and "Garbage" in str(action)]


def test_the_deletion_of_the_model_ends_it():
    cluster = trained(storage=STORAGE | {"retain": False})
    ordered(cluster)
    cluster.delete()
    cluster.settle()
    assert not cluster.jobs(GC)
    assert cluster.jobs("clean-up")


# -- what is known of storage afterwards -------------------------------------------------------------------------------


def test_a_result_that_was_removed_is_made_again_when_a_prompt_returns_to_its_text():
    cluster = trained()
    (resolve,) = stage_jobs(cluster.observe(), ("resolve",))
    manifests = list(ModelState.of(cluster.observe(), cluster.now).planner_input.manifests.values())
    gone = manifests[0].model_copy(update={"stage": "base", "digest": "000000000000"})
    cluster.objects["ConfigMap", resolve.name]["binaryData"] = {MANIFESTS_KEY: pack_manifests([*manifests, gone])[0]}
    key = (gone.stage, gone.digest)
    assert key in ModelState.of(cluster.observe(), cluster.now).planner_input.manifests
    ordered(cluster, DRY)
    assert key in ModelState.of(cluster.observe(), cluster.now).planner_input.manifests
    ordered(cluster, ORDER)
    assert cluster.objects["ConfigMap", resolve.name]["data"][REMOVED_KEY] == '["000000000000"]'
    state = ModelState.of(cluster.observe(), cluster.now)
    assert key not in state.planner_input.manifests
    assert state.plan.finished


def test_a_revision_of_a_nested_artifact_keeps_its_result():
    cluster = served()
    (key,) = [key for key, item in cluster.objects.items() if REVISION_KEY in item.get("data", {})]
    record = Revision.model_validate_json(cluster.objects[key]["data"][REVISION_KEY])
    nested = record.model_copy(update={"artifact": "stages/export/0123abcd/files-ml__desk_host.1.ab"})
    cluster.objects[key]["data"][REVISION_KEY] = nested.model_dump_json(by_alias=True)
    assert "export/0123abcd" in ordered(cluster).keep
