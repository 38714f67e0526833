"""An upgrade of the operator whose stages have other versions: during a run, after one, and how it is adopted."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from multitask_api.cluster import REFRESH_ANNOTATION
from multitask_api.stages.versions import UNRECORDED_VERSIONS, VERSIONS
from multitask_operator.reconciler.state import run_record
from multitask_operator.reconciler.state.model_state import ModelState
from support.graph_builders import task
from support.simulation import SETTINGS, Cluster, run_until

OLD, NEW = SETTINGS.trainer_image, "registry.example/trainer:2"
TASKS = (task("urgency"), task("intent"))
RAISED = [
    pytest.param(("prepare",), id="what everything reads"),
    pytest.param(("baseline", "mixture"), id="training"),
    pytest.param(("export",), id="the last stage"),
    pytest.param(tuple(VERSIONS), id="every stage"),
]


@pytest.fixture
def upgrade(monkeypatch):
    """Begins the next release in ``cluster``: another image, in which the versions of ``kinds`` are raised."""

    def begin(cluster, kinds=("baseline", "mixture")):
        older, versions = run_record.VERSIONS, {kind: version + (kind in kinds) for kind, version in VERSIONS.items()}
        monkeypatch.setattr(run_record, "VERSIONS", versions)
        cluster.images = {OLD: older, NEW: versions}
        cluster.settings = replace(SETTINGS, trainer_image=NEW)

    return begin


@pytest.fixture(params=[True, False], ids=["of a release with recorded versions", "of one that recorded none"])
def leave(request, monkeypatch):
    """Makes a cluster what the release that began the model's run leaves of it."""
    if request.param:
        return lambda cluster: cluster
    monkeypatch.setattr(run_record, "VERSIONS", UNRECORDED_VERSIONS)
    return as_an_older_release_left_it


def began(**spec):
    """A cluster with the release whose versions `run_record` has."""
    cluster = Cluster(*TASKS, **spec)
    cluster.images = {OLD: run_record.VERSIONS}
    return cluster


def trained(**spec):
    cluster = began(**spec)
    cluster.to_the_end()
    assert cluster.condition("Progressing")["reason"] == "Complete"
    return cluster


def halfway():
    cluster = began()
    for _ in range(3):
        cluster.settle()
        cluster.finish(cluster.jobs()[0])
    cluster.settle()
    return cluster


def as_an_older_release_left_it(cluster):
    """The snapshot without what older releases did not record."""
    snapshot = cluster.objects["ConfigMap", "desk-run-1"]["data"]
    document = json.loads(snapshot["snapshot.json"])
    del document["versions"]
    document.pop("refresh", None)
    snapshot["snapshot.json"] = json.dumps(document)
    return cluster


def test_a_run_that_an_older_release_began_has_a_job_for_each_baseline(upgrade):
    """Its image may train what one Job has one after the other."""
    cluster = began(tuning={"method": "LoRA"})
    run_until(cluster, "prepare")
    upgrade(cluster)
    run_until(cluster, "baseline")
    assert len(cluster.jobs("baseline")) == 2


def exported(cluster):
    """The digest of the finished export."""
    graph = ModelState.of(cluster.observe(), cluster.now).plan.graph
    assert graph.finished
    return graph["export"].digest


def images(cluster, since=0):
    """Job → image, of the Jobs created after the first ``since``."""
    return {
        name: cluster.objects["Job", name]["spec"]["template"]["spec"]["containers"][0]["image"]
        for name in cluster.job_runs[since:]
        if ("Job", name) in cluster.objects
    }


@pytest.mark.parametrize("kinds", RAISED)
def test_a_finished_model_stays_as_it_is(upgrade, kinds, leave):
    cluster = leave(trained())
    status, before = cluster.model["status"], list(cluster.created)
    upgrade(cluster, kinds)
    cluster.settle()
    assert cluster.created == before
    assert cluster.model["status"] == status
    assert exported(cluster)


@pytest.mark.parametrize("kinds", RAISED)
def test_a_run_goes_on_to_its_end_with_its_image_and_repeats_nothing(upgrade, kinds, leave):
    expected = trained()
    cluster = leave(halfway())
    upgrade(cluster, kinds)
    cluster.to_the_end()
    assert sorted(cluster.job_runs) == sorted(expected.job_runs)
    assert set(images(cluster).values()) == {OLD}
    assert exported(cluster) == exported(expected)


STAYS = [
    ({"serving": {"replicas": 3}}, "replicas"),
    ({"training": {"maxParallelJobs": 1}}, "the number of Jobs"),
    ({"training": {"resources": {"limits": {"memory": "64Gi"}}, "queueName": "gold"}}, "pods"),
    ({"credentials": [{"secretRef": {"name": "hub"}}]}, "a Secret"),
]


@pytest.mark.parametrize(("edit", "sentence"), STAYS, ids=[row[1] for row in STAYS])
def test_an_edit_that_trains_nothing_else_keeps_the_release(upgrade, edit, sentence):
    cluster = trained()
    runs, revision = len(cluster.job_runs), exported(cluster)
    upgrade(cluster)
    cluster.edit(*TASKS, **edit)
    cluster.to_the_end()
    assert [name.rpartition("-")[0] for name in cluster.job_runs[runs:]] == ["desk-resolve"]
    assert set(images(cluster, runs).values()) == {OLD}
    assert exported(cluster) == revision


def test_suspending_and_resuming_keeps_the_release(upgrade):
    expected, cluster = trained(), halfway()
    upgrade(cluster)
    cluster.edit(*TASKS, suspend=True)
    cluster.settle()
    cluster.edit(*TASKS)
    cluster.to_the_end()
    assert exported(cluster) == exported(expected)
    assert set(images(cluster).values()) == {OLD}


ADOPTS = [
    (lambda cluster: cluster.annotate(REFRESH_ANNOTATION, "tuesday"), "the annotation"),
    (lambda cluster: cluster.edit(*TASKS, training={"learningRate": 1e-3}), "an edit of what is trained"),
    (lambda cluster: cluster.edit(*TASKS, task("spam")), "a new task"),
]


@pytest.mark.parametrize(("ask", "sentence"), ADOPTS, ids=[row[1] for row in ADOPTS])
def test_a_new_release_is_adopted_by(upgrade, ask, sentence, leave):
    cluster = leave(trained())
    runs, revision = len(cluster.job_runs), exported(cluster)
    upgrade(cluster)
    ask(cluster)
    cluster.to_the_end()
    assert set(images(cluster, runs).values()) == {NEW}
    assert exported(cluster) != revision
    assert ModelState.of(cluster.observe(), cluster.now).run.is_of_this_release
    again = list(cluster.created)
    cluster.settle()
    assert cluster.created == again


def test_a_default_that_a_release_changes_makes_nothing_stale(upgrade):
    cluster = trained(training={"patience": 7})
    before = list(cluster.created)
    upgrade(cluster)
    del cluster.model["spec"]["training"]["patience"]  # as if nobody had set it, and 7 had been the default
    cluster.settle()
    assert cluster.created == before
    assert exported(cluster)


def test_a_prompt_that_a_configmap_changes_begins_a_run_of_the_new_release(upgrade):
    cluster = trained()
    runs = len(cluster.job_runs)
    upgrade(cluster)
    cluster.model["spec"]["tasks"][0]["prompt"] = "{text} ?"
    cluster.resource = cluster.resource.model_validate({"metadata": {"name": "desk"}, "spec": cluster.model["spec"]})
    cluster.to_the_end()
    assert set(images(cluster, runs).values()) == {NEW}
    assert exported(cluster)


def test_an_annotation_from_before_the_upgrade_asks_for_nothing(upgrade, leave):
    cluster = began()
    cluster.annotate(REFRESH_ANNOTATION, "monday")
    cluster.to_the_end()
    before = list(leave(cluster).created)
    upgrade(cluster)
    cluster.settle()
    assert cluster.created == before


def test_refresh_takes_todays_image_without_another_version(upgrade):
    cluster = trained()
    runs = len(cluster.job_runs)
    cluster.settings = replace(SETTINGS, trainer_image=NEW)
    cluster.annotate(REFRESH_ANNOTATION, "tuesday")
    cluster.to_the_end()
    assert images(cluster, runs) == {cluster.job_runs[-1]: NEW}, "only resolve ran: the results are there"
    assert json.loads(cluster.objects["ConfigMap", "desk-run-1"]["data"]["snapshot.json"])["trainerImage"] == NEW


@pytest.mark.parametrize("text", ["{", "[]", '{"versions": 3}', '{"trainerImage": 7, "spec": {}, "generation": 1}'])
def test_a_snapshot_that_was_edited_by_hand_records_nothing_and_stops_nothing(text):
    cluster = trained()
    cluster.objects["ConfigMap", "desk-run-1"]["data"]["snapshot.json"] = text
    cluster.settle()
    assert ModelState.of(cluster.observe(), cluster.now).run.versions == VERSIONS


def test_kinds_of_stages_that_are_new_make_a_run_none_of_another_release():
    cluster = trained()
    snapshot = cluster.objects["ConfigMap", "desk-run-1"]["data"]
    document = json.loads(snapshot["snapshot.json"])
    for kind in ("gradients", "affinity", "check"):
        del document["versions"][kind]
    snapshot["snapshot.json"] = json.dumps(document)
    assert ModelState.of(cluster.observe(), cluster.now).run.is_of_this_release
