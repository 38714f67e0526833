"""The commands that read a cluster, on a simulated cluster of plain data."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from multitask_api.stage_io.manifest import StageProgress
from multitask_api.stage_io.results import EvaluateResult
from multitask_kubernetes.logs import user_namespace
from multitask_operator import cli
from multitask_operator.cluster.observe import OPERATOR_CHILDREN
from multitask_operator.commands.cluster import report as report_command
from multitask_operator.commands.cluster import status as status_command
from multitask_operator.commands.cluster.diagnosis import diagnose
from multitask_operator.commands.cluster.jobs import job_rows
from multitask_operator.commands.cluster.model_view import seconds_of_stages
from multitask_operator.commands.cluster.options import ClusterOptions
from multitask_operator.commands.cluster.plan import summarize
from multitask_operator.commands.cluster.pods import NoSuchStage, log_unavailable, newest_pod, not_started, select_job
from multitask_operator.reconciler.state.accessors import format_time
from multitask_operator.reconciler.state.model_state import ModelState
from multitask_operator.report.build import build_report
from support.graph_builders import all_done, graph_of, task
from support.simulated_servers import ServedCluster
from support.simulation import BEGAN, REMOVED, Cluster

GPU = {"reason": "Unschedulable", "message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."}


class TwoTaskCluster(Cluster):
    """A model of two tasks; ``ratio`` is the evaluation's ratio of the first of them."""

    def __init__(self, ratio=1.012, **spec):
        super().__init__(task("urgency"), task("intent"), **spec)
        self.ratio = ratio

    def until(self, kind):
        """Finish Jobs until there is one of ``kind``; its name."""
        for _ in range(30):
            self.settle()
            jobs = self.jobs(kind)
            if jobs:
                return jobs[0]
            self.finish(self.jobs()[0])
        raise AssertionError(f"no Job of {kind}")

    def _manifest(self, name, order):
        manifest = super()._manifest(name, order)
        if order["kind"] != "evaluate" or self.ratio > 1:
            return manifest
        evaluation = EvaluateResult.model_validate(manifest.result)
        low = evaluation.tasks[0].model_copy(
            update={"ratio": self.ratio, "score": 0.825, "verdict": "NotQualified", "interval": (0.95, 0.985)}
        )
        result = evaluation.model_copy(update={"tasks": (low, *evaluation.tasks[1:])}).to_json()
        return manifest.model_copy(update={"result": result})

    def pod(self, job, number=0, *, phase="Pending", waiting=None, scheduled=None, terminated=None):
        """A pod of ``job`` in that state."""
        state = {"waiting": waiting} if waiting else {"terminated": terminated} if terminated else {"running": {}}
        status = {"phase": phase, "containerStatuses": [{"name": "trainer", "image": "trainer:1", "state": state}]}
        if scheduled:
            status["conditions"] = [{"type": "PodScheduled", "status": "False", **scheduled}]
        own = self.objects["Job", job]["spec"]["template"]["metadata"]["labels"]
        metadata = {"name": f"{job}-{number}", "labels": own | {"batch.kubernetes.io/job-name": job}}
        spec = {"containers": [{"name": "trainer", "resources": {"limits": {"memory": "2Gi"}}}]}
        self._put(("Pod", metadata["name"]), {"kind": "Pod", "metadata": metadata, "spec": spec, "status": status})

    def write(self, job, **data):
        """Write into the Job's ConfigMap, as its pod does."""
        self.objects["ConfigMap", job]["data"] |= {f"{key}.json": json.dumps(value) for key, value in data.items()}

    def fail(self, job, index, kind, message):
        """The stage at ``index`` of ``job`` fails with this message, and with it the Job."""
        annotations = self.objects["ConfigMap", job]["metadata"]["annotations"]
        stage, digest = (annotations[f"multitask.dev/{name}"].split(",")[index] for name in ("stage", "digest"))
        self.write(job, failure={"stage": stage, "kind": kind, "message": message, "digest": digest})
        self.end(job, "Failed", "Job has reached the specified backoff limit")

    def explained(self, later=0.0):
        return diagnose(self.observe(), self.now + later)


def waiting_for(job="resolve", **state):
    """A model whose Job of that kind has a pod in that state."""
    cluster = TwoTaskCluster()
    cluster.pod(cluster.until(job), **state)
    cluster.settle()
    return cluster


def with_failure(job, kind, message):
    cluster = TwoTaskCluster()
    cluster.fail(cluster.until(job), 0, kind, message)
    cluster.settle()
    return cluster


def suspended():
    cluster = TwoTaskCluster()
    cluster.edit(task("urgency"), task("intent"), suspend=True)
    cluster.settle()
    return cluster


def suspended_once_trained():
    cluster = trained()
    cluster.edit(task("urgency"), task("intent"), suspend=True)
    cluster.settle()
    assert cluster.condition("Ready")["reason"] == "Trained"
    return cluster


def deleted():
    cluster = TwoTaskCluster()
    cluster.settle()
    cluster.model["metadata"]["deletionTimestamp"] = format_time(BEGAN)
    return cluster


def cleaned_up(**pod):
    """A model that is being deleted, with the pod of its clean-up in that state."""
    cluster = TwoTaskCluster(storage=REMOVED)
    cluster.until("prepare")
    cluster.delete()
    cluster.settle()
    (job,) = cluster.jobs()
    cluster.pod(job, **pod)
    cluster.settle()
    return cluster


def cleaned_up_with_failure():
    cluster = cleaned_up(phase="Pending")
    failure = {"stage": "clean-up", "kind": "Retryable", "message": "s3 did not answer", "digest": ""}
    cluster.write(cluster.jobs()[0], failure=failure)
    return cluster


def cleaned_up_with_finalizer():
    cluster = cleaned_up(phase="Running")
    cluster.finish(cluster.jobs()[0])
    return cluster


def write_rejected():
    cluster = TwoTaskCluster()
    cluster.settle()
    ready = cluster.condition("Ready")
    ready |= {"reason": "WriteRefused", "message": "create jobs.batch x: exceeded quota: count/jobs.batch"}
    return cluster


def without_claim():
    cluster = TwoTaskCluster()
    cluster.pvcs = {}
    cluster.settle()
    return cluster


def on_one_claim():
    cluster = TwoTaskCluster(access="ReadWriteOnce", training={"nodes": 2})
    cluster.settle()
    return cluster


def in_a_queue():
    cluster = TwoTaskCluster(training={"queueName": "team-a"})
    cluster.settle()
    return cluster


def wrong_address():
    cluster = TwoTaskCluster()
    cluster.model["spec"]["tasks"][0]["data"]["train"]["uri"] = "data/train.jsonl"
    cluster.settle()
    return cluster


def missing_labels():
    cluster = TwoTaskCluster()
    first = cluster.model["spec"]["tasks"][0]
    del first["labels"]
    first["labelsFrom"] = {"name": "labels", "key": "urgency"}
    cluster.settle()
    return cluster


def out_of_memory():
    cluster = TwoTaskCluster()
    job = cluster.until("baseline")
    cluster.pod(job, phase="Failed", terminated={"reason": "OOMKilled", "exitCode": 137})
    cluster.end(job, "Failed", "Job has reached the specified backoff limit")
    cluster.settle()
    return cluster


def trained(**more):
    cluster = TwoTaskCluster(**more)
    cluster.to_the_end()
    return cluster


def retrying():
    cluster = TwoTaskCluster()
    job = cluster.until("baseline")
    annotations = cluster.objects["ConfigMap", job]["metadata"]["annotations"]
    stage, digest = annotations["multitask.dev/stage"], annotations["multitask.dev/digest"]
    cluster.write(job, failure={"stage": stage, "kind": "Retryable", "message": "s3 did not answer", "digest": digest})
    return cluster


BAD_ROWS = "2 bad rows\ns3://bucket/intent/train.jsonl:3: no field text\ns3://bucket/intent/train.jsonl:9: no label"

SITUATIONS = {
    # situation: (cluster, reason, whether it is blocked, parts of message and next step)
    "no node has a free GPU": (
        lambda: waiting_for(scheduled=GPU),
        ("NoGPUFree", True),
        ("waits for a free nvidia.com/gpu", "lower training.gpusPerNode"),
    ),
    "a queue has not admitted the Job": (in_a_queue, ("Queued", True), ("queue 'team-a'", "owner of the queue")),
    "the image cannot be pulled": (
        lambda: waiting_for(waiting={"reason": "ImagePullBackOff", "message": "not found"}),
        ("ImageNotPulled", True),
        ("trainer:1 cannot be pulled: not found", "spec.imagePullSecrets"),
    ),
    "a Secret is missing": (
        lambda: waiting_for(waiting={"reason": "CreateContainerConfigError", "message": 'secret "hub" not found'}),
        ("SecretMissing", True),
        ("Secret 'hub'", "create it"),
    ),
    "the claim is missing": (without_claim, ("ClaimMissing", True), ("'models' does not exist", "create it")),
    "the claim is not shared": (on_one_claim, ("StorageNotShared", True), ("'models' offers ReadWriteOnce",)),
    "a write was rejected": (write_rejected, ("WriteRefused", True), ("exceeded quota", "tries again by itself")),
    "rows are bad": (
        lambda: with_failure("prepare", "UserError", BAD_ROWS),
        ("StageFailed", True),
        ("prepare/intent: 2 bad rows", "train.jsonl:9: no label", "annotate mtm desk multitask.dev/refresh="),
    ),
    "the program failed": (
        lambda: with_failure("baseline", "Fault", "KeyError: 'x'"),
        ("StageFailed", True),
        ("KeyError", "mtm logs desk baseline/"),
    ),
    "memory ran out": (out_of_memory, ("StageFailed", True), ("limit 2Gi", "spec.training.resources.limits.memory")),
    "an attempt failed and the next one is due": (retrying, ("Retrying", False), ("s3 did not answer",)),
    "an address is none of a cluster": (wrong_address, ("InvalidSpec", True), ("a path of one machine", "apply")),
    "a ConfigMap of labels is missing": (missing_labels, ("InvalidSpec", True), ("no ConfigMap 'labels'",)),
    "it is suspended": (suspended, ("Suspended", True), ("kubectl -n ml patch mtm desk",)),
    "it is trained, and suspended": (suspended_once_trained, ("Trained", False), ()),
    "it is being deleted": (deleted, ("BeingDeleted", True), ()),
    "what its runs wrote is being removed": (
        lambda: cleaned_up(phase="Running"),
        ("CleaningUp", False),
        ("with what its runs wrote at pvc://models/desk", "mtm logs desk clean-up -f -n ml"),
    ),
    "its clean-up lacks a Secret": (
        lambda: cleaned_up(waiting={"reason": "CreateContainerConfigError", "message": 'secret "hub" not found'}),
        ("SecretMissing", True),
        ("Secret 'hub'", "or set spec.storage.retain: true"),
    ),
    "its clean-up tries again": (cleaned_up_with_failure, ("Retrying", False), ("clean-up: s3 did not answer",)),
    "its clean-up is done and it still exists": (
        cleaned_up_with_finalizer,
        ("OperatorActs", False),
        ("the operator has to add or remove its finalizer",),
    ),
    "a task is below the threshold": (
        lambda: trained(ratio=0.971),
        ("TaskBelowBar", False),
        ("NotQualified, the ratio is 0.0190 below the threshold of 0.99", "score 0.825, single-task model 0.850"),
    ),
    "all is well": (
        trained,
        ("Trained", False),
        ("every task reaches the threshold", "No server answers for it yet."),  # as in Ready
    ),
}


@pytest.mark.parametrize("situation", SITUATIONS)
def test_there_is_one_reason_and_what_to_do_next(situation):
    build, expected, parts = SITUATIONS[situation]
    diagnosis = build().explained()
    assert (diagnosis.reason, diagnosis.blocked) == expected
    for part in parts:
        assert part in f"{diagnosis.message}\n{diagnosis.next}"


def test_a_promotion_that_needs_every_task_is_mentioned():
    diagnosis = trained(ratio=0.971, qualification={"promote": "AllQualified"}).explained()
    assert "promote is AllQualified" in diagnosis.message


EVENTS = [
    ('pods "x" is forbidden: exceeded quota: team, requested: cpu=4, used: cpu=8', False, "QuotaExceeded"),
    ('pods "x" is forbidden: violates PodSecurity "restricted"', False, "PodRefused"),
    ('MountVolume.SetUp failed for volume "key": secret "key" not found', True, "PodWarning"),
]


@pytest.mark.parametrize(("text", "with_pod", "reason"), EVENTS)
def test_where_no_pod_says_why_an_event_does(text, with_pod, reason):
    cluster = TwoTaskCluster()
    job = cluster.until("resolve")
    if with_pod:
        cluster.pod(job, waiting={"reason": "ContainerCreating"})
    stuck = cluster.objects["Pod", f"{job}-0"] if with_pod else cluster.objects["Job", job]
    cluster.warnings = {stuck["metadata"]["uid"]: text}
    cluster.now += 60.0  # longer than the grace of the operator
    cluster.settle()
    ready, diagnosis = cluster.condition("Ready"), cluster.explained()
    assert (ready["reason"], ready["message"]) == (diagnosis.reason, f"{diagnosis.message}; {diagnosis.next}")
    assert (diagnosis.reason, diagnosis.blocked, diagnosis.job) == (reason, True, job)
    assert f"{stuck['metadata']['name']}" in diagnosis.message
    assert text in diagnosis.message


def test_an_event_about_a_job_is_out_of_date_once_it_has_a_pod():
    cluster = TwoTaskCluster()
    job = cluster.until("resolve")
    cluster.warnings = {cluster.objects["Job", job]["metadata"]["uid"]: "exceeded quota: team"}
    cluster.pod(job, phase="Running")
    assert cluster.explained().reason == "StagesRunning"


def test_an_operator_that_does_nothing_is_reported_after_a_minute():
    cluster = TwoTaskCluster()
    cluster.model["metadata"]["creationTimestamp"] = format_time(BEGAN)
    assert cluster.explained(later=10).reason == "OperatorActs"
    diagnosis = cluster.explained(later=90)
    assert (diagnosis.reason, diagnosis.blocked) == ("OperatorNotActing", True)
    assert "has to create desk-resolve-" in diagnosis.message
    cluster.finish(cluster.until("resolve"))
    assert cluster.explained(later=600).reason == "OperatorNotActing"


def test_what_a_viewer_does_not_read_is_not_taken_for_missing():
    cluster = TwoTaskCluster(training={"nodes": 2})
    job = cluster.until("baseline")
    cluster.pod(job, phase="Running")
    cluster.settle()
    unread = dict.fromkeys(OPERATOR_CHILDREN, ())
    seen = replace(cluster.observe(), namespace_object=None, **unread)
    for later in (5, 300):
        diagnosis = diagnose(seen, cluster.now + later)
        assert (diagnosis.reason, diagnosis.blocked, diagnosis.job) == ("StagesRunning", False, job)


def test_active_and_failed_jobs_show_their_progress():
    cluster = TwoTaskCluster()
    job = cluster.until("prepare")
    cluster.pod(job, phase="Running")
    cluster.objects["Job", job]["status"] = {"startTime": format_time(BEGAN)}
    progress = StageProgress(stage="prepare/intent", phase="rows", step=50, total=400, tokens_per_second=9000.0)
    cluster.write(job, progress=progress.to_json())
    (row,) = job_rows(cluster.observe(), BEGAN + 12)
    assert (row.name, row.state) == (job, "running")
    assert row.detail == "prepare/intent rows 50/400 9,000 tokens/s 12 s"
    cluster.fail(job, 1, "UserError", BAD_ROWS)
    (row,) = job_rows(cluster.observe(), BEGAN)
    assert (row.state, row.detail) == ("failed", "prepare/urgency: 2 bad rows")


def test_the_job_that_verifies_a_revision_shows_until_it_is_done():
    cluster = ServedCluster(task("urgency", "Classification"))
    rows = []

    def look():
        cluster.settle()
        rows.append([row.stages for row in job_rows(cluster.observe(), cluster.now)])

    cluster.serve(look=look)
    assert [("verify-revision",)] in rows
    assert rows[-1] == []


def test_the_trained_result_and_the_served_revision_have_names_of_their_own(monkeypatch, capsys):
    cluster = ServedCluster(task("urgency", "Classification"))
    cluster.serve()
    monkeypatch.setattr(status_command, "read_model", lambda *_: cluster.observe())
    status_command.status("desk", ClusterOptions(), as_json=False)
    served = cluster.model["status"]["serving"]["revision"]
    assert f" · trained result 0123abcd · served revision {served}\n" in capsys.readouterr().out
    assert "result 0123abcd" in cluster.condition("Trained")["message"].lower()


def test_servers_that_answer_or_start_are_explained_as_ready_says_and_block_nothing():
    cluster = ServedCluster(task("urgency", "Classification"))
    seen = {}

    def look():
        cluster.settle()
        diagnosis, ready = diagnose(cluster.observe(), cluster.now), cluster.condition("Ready")
        if ready["reason"] in ("ServersStarting", "Serving"):
            assert (diagnosis.reason, diagnosis.message) == (ready["reason"], ready["message"])
            seen[ready["reason"]] = diagnosis

    cluster.serve(look=look)
    assert not any(diagnosis.blocked for diagnosis in seen.values())
    assert seen["Serving"].next == ""
    assert seen["ServersStarting"].next == "wait; `mtm rollout status desk -n ml` shows how far it is"


def test_the_advice_about_servers_is_the_one_in_their_message():
    cluster = ServedCluster(task("urgency", "Classification"))
    cluster.starts = lambda revision: False
    cluster.serve()
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}
    pod = cluster.objects["Pod", f"{cluster.deployments()[0]['metadata']['name']}-0"]
    pod["status"] = {
        "phase": "Pending",
        "containerStatuses": [{"name": "server", "image": "i", "state": waiting}],
    }
    pod["metadata"]["creationTimestamp"] = "2020-01-01T00:00:00Z"
    cluster.settle()
    diagnosis = diagnose(cluster.observe(), cluster.now)
    assert diagnosis.reason == "ImageNotPulled"
    assert "adopt-serving-image" in diagnosis.message
    assert diagnosis.next == "do what the message says; the operator notices it by itself"


def test_the_plan_shows_cached_running_failed_and_future_stages():
    cluster = TwoTaskCluster()
    cluster.until("baseline")
    cluster.fail(cluster.jobs("baseline")[0], 0, "Fault", "it broke\nbadly")
    states = summarize(ModelState.of(cluster.observe(), cluster.now)).states
    kinds = {name.split("/")[0]: state for name, state in states.items()}
    assert kinds["prepare"] == "cached"
    assert sorted(state for name, state in states.items() if name.startswith("baseline")) == [
        "failed: it broke",
        "running",
    ]
    assert kinds["filter"].startswith("depends on baseline/")


def test_before_resolve_the_plan_has_a_note():
    cluster = TwoTaskCluster()
    cluster.settle()
    notes = summarize(ModelState.of(cluster.observe(), cluster.now)).notes
    assert any("have not been checked" in note for note in notes)


def test_the_report_is_that_of_a_local_run_of_the_same_manifests():
    cluster = trained()
    shown = ModelState.of(cluster.observe(), cluster.now)
    manifests = all_done(cluster.resource, serve=False)
    ran = {key[0]: item.seconds for key, item in manifests.items()}
    local = build_report(cluster.resource, graph_of(cluster.resource, manifests, serve=False), ran)
    assert build_report(shown.model, shown.plan.graph, seconds_of_stages(shown)) == local


LOGS = [
    # stage, the kind of the selected Job, or the error
    ("resolve", "resolve", ""),
    ("prepare/intent", "prepare", ""),
    ("prepare", "prepare", ""),
    ("baseline/urgency/seed-17", "baseline", ""),
    ("baseline/urgency", "baseline", ""),
    ("baseline", None, "baseline has 2 stages; name one of them: baseline/intent/seed-17, baseline/urgency/seed-17"),
    ("filter", "filter", ""),
    ("fliter", None, "desk has no Job for a stage 'fliter'; nearest: filter"),
    ("9", None, "stages with a Job: base, baseline/intent/seed-17"),
    (None, "export", ""),
]


@pytest.fixture(scope="module")
def done():
    return trained().observe()


@pytest.mark.parametrize(("stage", "kind", "message"), LOGS)
def test_a_log_is_named_by_its_stage(done, stage, kind, message):
    if kind is not None:
        assert select_job(done, stage).kind == kind
        return
    with pytest.raises(NoSuchStage) as error:
        select_job(done, stage)
    assert message in str(error.value)


def test_without_a_stage_what_failed_is_shown_before_what_runs():
    cluster = TwoTaskCluster()
    cluster.until("baseline")
    first, second = cluster.jobs("baseline")
    assert select_job(cluster.observe(), None).name in (first, second)
    cluster.fail(second, 0, "Fault", "it broke")
    assert select_job(cluster.observe(), None).name == second


def test_the_newest_pod_of_the_first_node_is_selected():
    cluster = TwoTaskCluster()
    job = cluster.until("resolve")
    for number in (0, 1, 2):
        cluster.written += 1
        cluster.pod(job, number)
    cluster.objects["Pod", f"{job}-2"]["metadata"]["annotations"] = {"batch.kubernetes.io/job-completion-index": "1"}
    assert newest_pod(select_job(cluster.observe(), "resolve"))["metadata"]["name"] == f"{job}-1"


def test_the_report_of_a_cluster_prints_its_warnings(monkeypatch, tmp_path, capsys):
    cluster = Cluster(task("urgency"))
    cluster.to_the_end()

    def with_a_warning(*arguments):
        return build_report(*arguments).model_copy(update={"warnings": ("urgency: 85 of 160 rows leaked",)})

    monkeypatch.setattr(report_command, "read_model", lambda *_: cluster.observe())
    monkeypatch.setattr(report_command, "build_report", with_a_warning)
    assert report_command.report("desk", ClusterOptions(), tmp_path, as_json=False) == 0
    assert "warning: urgency: 85 of 160 rows leaked\n" in capsys.readouterr().out


def test_without_a_pod_the_message_has_what_it_reported():
    cluster = TwoTaskCluster()
    job = cluster.until("baseline")
    cluster.write(job, progress=StageProgress(stage="baseline/x", phase="training", step=3, total=9).to_json())
    cluster.fail(job, 0, "Fault", "it broke")
    raw = cluster.observe()
    stage_job = select_job(raw, job)
    assert newest_pod(stage_job) is None
    text = log_unavailable(raw, stage_job)
    assert f"no pod of {stage_job.keys[0][0]} is left" in text
    assert f"ConfigMap {job} has its failure (it broke) and its last progress (baseline/x training 3/9" in text
    assert "has the result of 1 of 1 stages" in log_unavailable(raw, select_job(trained().observe(), "filter"))


def test_for_a_pod_that_has_not_started_the_message_has_the_reason():
    cluster = waiting_for(scheduled=GPU)
    raw = cluster.observe()
    stage_job = select_job(raw, None)
    assert "waits for a free nvidia.com/gpu" in not_started(raw, stage_job, newest_pod(stage_job))


def test_hand_written_manifests_and_statuses_break_nothing():
    cluster = trained()
    cluster.model["status"] = {"conditions": "none", "tasks": 7}
    for (kind, _), item in cluster.objects.items():
        if kind == "ConfigMap":
            item["binaryData"] = dict.fromkeys(item.get("binaryData", {}), "####")
    assert cluster.explained(later=10).reason in ("OperatorActs", "OperatorNotActing")
    raw = replace(cluster.observe(), jobs=())
    assert job_rows(raw, cluster.now) == []


# -- which cluster, and whether a name refers to one -------------------------------------------------------------------


def test_a_name_refers_to_a_cluster_unless_a_file_has_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "desk").mkdir()
    assert not ClusterOptions().refers_to("desk")
    assert ClusterOptions(namespace="ml").refers_to("desk")
    assert ClusterOptions().refers_to("other")
    assert not ClusterOptions().refers_to("other.yaml")
    assert not ClusterOptions().refers_to("./other")


CONFIG = {
    "apiVersion": "v1",
    "kind": "Config",
    "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}],
    "users": [{"name": "u", "user": {"token": "t"}}],
    "contexts": [
        {"name": "first", "context": {"cluster": "c", "user": "u", "namespace": "ml"}},
        {"name": "second", "context": {"cluster": "c", "user": "u"}},
    ],
    "current-context": "first",
}


def test_the_namespace_is_that_of_the_context(tmp_path):
    config = tmp_path / "config"
    config.write_text(json.dumps(CONFIG))
    assert user_namespace(config) == "ml"
    assert user_namespace(config, "second") == "default"
    assert user_namespace(environ={"KUBECONFIG": str(config)}) == "ml"


COMMANDS = [
    (["status"], 2, "Missing argument 'NAME'"),
    (["status", "desk", "--kubeconfig", "{tmp}/none"], 2, "there is no kubeconfig at {tmp}/none; name one"),
    (["logs", "desk", "--kubeconfig", "{tmp}/config"], 1, "no answer from the API server"),
    (["explain", "desk", "--kubeconfig", "{tmp}/config", "--context", "third"], 2, "third"),
    (["plan", "desk"], 2, "there is no file 'desk', and no cluster that could have a MultiTaskModel 'desk'"),
    (["report", "desk"], 2, "there is no folder 'desk', and no cluster that could have a MultiTaskModel 'desk'"),
    (["plan", "desk", "-n", "ml", "--workdir", "x"], 2, "--workdir applies only to a run on this machine"),
    (["report", "{tmp}", "--to", "x"], 2, "--to applies only to a report of a cluster"),
]


@pytest.mark.parametrize(("arguments", "status", "message"), COMMANDS)
def test_without_a_cluster_there_is_one_line(tmp_path, capsys, monkeypatch, arguments, status, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nothing"))
    (tmp_path / "config").write_text(json.dumps(CONFIG))
    assert cli.invoke([part.replace("{tmp}", str(tmp_path)) for part in arguments]) == status
    captured = capsys.readouterr()
    assert message.replace("{tmp}", str(tmp_path)) in captured.err
    assert captured.err.count("\n") == 1


def test_as_a_plugin_it_is_called_kubectl_mtm(capsys):
    assert cli.invoke(["status"], "kubectl mtm") == 2
    assert "`kubectl mtm status --help` shows how" in capsys.readouterr().err
