"""Faults around a model and their remedies, each a step of a `ModelScenario`."""

from __future__ import annotations

import base64

import httpx

from devcluster import objects
from devcluster.processes import until
from multitask_api.cluster import MODEL_LABEL
from support.cluster.model_scenario import SECONDS, ModelScenario
from support.graph_builders import task

ADMISSION = "/apis/admissionregistration.k8s.io/v1"
POLICY = {"expression": "has(object.metadata.labels.cost)", "message": "pods need the label cost"}
RBAC, BATCH = "/apis/rbac.authorization.k8s.io/v1", "/apis/batch/v1"


def nothing(scenario: ModelScenario):
    """It is as it should be."""


def create_claim(scenario: ModelScenario, **more):
    """The claim that the model names."""
    objects.claim(scenario.rest, scenario.namespace, "models", **more)


def create_one_node_claim(scenario: ModelScenario):
    create_claim(scenario, modes=("ReadWriteOnce",))


def create_terminating_claim(scenario: ModelScenario):
    """A claim that somebody deleted while a pod has it mounted."""
    create_claim(scenario)
    volume = {"name": "v", "persistentVolumeClaim": {"claimName": "models"}}
    user = {"containers": [{"name": "c", "image": "i"}], "volumes": [volume], "nodeName": "n"}
    scenario.post("pods", {"metadata": {"name": "user"}, "spec": user})
    scenario.delete(scenario.collection_path("persistentvolumeclaims/models"))


def recreate_claim(scenario: ModelScenario):
    scenario.delete(scenario.collection_path("pods/user"), gracePeriodSeconds=0)
    scenario.wait_until_gone(scenario.collection_path("persistentvolumeclaims/models"))
    scenario.delete(f"/api/v1/persistentvolumes/{scenario.namespace}-models")
    scenario.wait_until_gone(f"/api/v1/persistentvolumes/{scenario.namespace}-models")
    create_claim(scenario)


def create_lost_claim(scenario: ModelScenario):
    """A claim whose volume somebody took away."""
    create_claim(scenario)
    volume, path = (
        f"/api/v1/persistentvolumes/{scenario.namespace}-models",
        scenario.collection_path("persistentvolumeclaims/models"),
    )
    scenario.delete(volume)
    scenario.patch(volume, {"metadata": {"finalizers": None}})
    until("the claim is lost", lambda: objects.get(scenario.rest, path)["status"]["phase"] == "Lost", SECONDS)


def replace_claim(scenario: ModelScenario):
    scenario.delete(scenario.collection_path("persistentvolumeclaims/models"))
    scenario.wait_until_gone(scenario.collection_path("persistentvolumeclaims/models"))
    create_claim(scenario)


def set_waiting(reason, message="", kind="resolve", **more):
    return lambda scenario: scenario.set_waiting(scenario.wait_for_pod(kind), reason, message, **more)


def set_unschedulable(message, kind="resolve"):
    return lambda scenario: scenario.set_unschedulable(scenario.wait_for_pod(kind), message)


def fail_pod(kind, *arguments, **more):
    return lambda scenario: scenario.fail_pod(scenario.wait_for_pod(kind), *arguments, **more)


def fail_job(kind, *arguments, **more):
    return lambda scenario: scenario.fail_job(kind, *arguments, **more)


def edit_spec(**spec):
    return lambda scenario: scenario.edit(**spec)


def refresh(scenario: ModelScenario):
    scenario.refresh()


def preempt_twice(scenario: ModelScenario):
    """The Job does not count it."""
    target = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}
    for _ in range(2):
        pod = scenario.wait_for_pod("baseline")
        scenario.pods.finish_pod(pod, "Failed", conditions=[target], exitCode=143, reason="Error")
        until("it is seen", lambda name=pod["metadata"]["name"]: name not in scenario.waiting_names(), SECONDS)
    job = scenario.job_of(scenario.wait_for_pod("baseline"))
    assert not objects.get(scenario.rest, scenario.collection_path(f"jobs/{job}", BATCH))["status"].get("failed")


def admit_jobs(scenario: ModelScenario):
    """A queue lets every Job run, as Kueue does it."""

    def admit(scenario):
        for job in scenario.operator_cluster.jobs.list_in(scenario.namespace):
            if job["spec"].get("suspend") and "deletionTimestamp" not in job["metadata"]:
                path = scenario.collection_path(f"jobs/{job['metadata']['name']}", BATCH)
                answer = scenario.rest.patch(path, json={"spec": {"suspend": False}}, headers=objects.MERGE)
                assert answer.is_success or answer.status_code == httpx.codes.NOT_FOUND, answer.text

    scenario.steps.append(admit)


def open_gates(scenario: ModelScenario):
    """Whoever holds the gate opens it for every pod."""

    def open_gates(scenario):
        for pod in scenario.operator_cluster.pods.list_in(scenario.namespace):
            if pod["spec"].get("schedulingGates"):
                path = scenario.collection_path(f"pods/{pod['metadata']['name']}")
                answer = scenario.rest.patch(path, json={"spec": {"schedulingGates": None}}, headers=objects.MERGE)
                assert answer.is_success or answer.status_code == httpx.codes.NOT_FOUND, answer.text

    scenario.steps.append(open_gates)


def report_data_problems(*texts):
    """The resolve Job reports these problems, until they are corrected and it runs again."""

    def find(scenario):
        scenario.wait_for_pod("resolve")
        scenario.pods.problems = texts
        scenario.pods.run_waiting()

    return find


def mend_data(scenario: ModelScenario):
    scenario.pods.problems = ()
    scenario.refresh()


# -- somebody edits children -----------------------------------------------------------------------------------------


def delete_child(collection, group="/api/v1", kind="baseline"):
    """The object of that collection that belongs to the unit at work."""
    return lambda scenario: scenario.delete(
        scenario.collection_path(f"{collection}/{scenario.job_of(scenario.wait_for_pod(kind))}", group)
    )


def delete_job_with_foreign_finalizer(scenario: ModelScenario):
    path = scenario.collection_path(f"jobs/{scenario.job_of(scenario.wait_for_pod('base'))}", BATCH)
    scenario.patch(path, {"metadata": {"finalizers": ["example.com/hold"]}})
    scenario.delete(path, propagationPolicy="Background")


def remove_foreign_finalizer(scenario: ModelScenario):
    for job in scenario.operator_cluster.jobs.list_in(scenario.namespace):
        if "deletionTimestamp" in job["metadata"]:
            scenario.patch(
                scenario.collection_path(f"jobs/{job['metadata']['name']}", BATCH), {"metadata": {"finalizers": None}}
            )


def delete_pod(scenario: ModelScenario):
    pod = scenario.wait_for_pod("baseline")
    scenario.delete(scenario.collection_path(f"pods/{pod['metadata']['name']}"))
    scenario.wait_until_gone(scenario.collection_path(f"pods/{pod['metadata']['name']}"))


def patch_child(collection, change, group="/api/v1", kind="baseline"):
    return lambda scenario: scenario.patch(
        scenario.collection_path(f"{collection}/{scenario.job_of(scenario.wait_for_pod(kind))}", group), change
    )


def corrupt_results(scenario: ModelScenario):
    """Garbage where the results of the base stand."""
    scenario.wait_for_pod("baseline")
    for path in _configmaps(scenario):
        configmap = objects.get(scenario.rest, path)
        if "binaryData" in configmap:
            garbage = base64.b64encode(b"garbage").decode()
            scenario.patch(path, {"binaryData": dict.fromkeys(configmap["binaryData"], garbage)})


def delete_snapshot(scenario: ModelScenario):
    scenario.wait_for_pod("prepare")
    scenario.delete(scenario.collection_path("configmaps/desk-run-1"))


def corrupt_snapshot(scenario: ModelScenario):
    scenario.wait_for_pod("prepare")
    scenario.patch(scenario.collection_path("configmaps/desk-run-1"), {"data": {"snapshot.json": "garbage"}})


def remove_access(collection, change=None, group=RBAC):
    """One of the objects that let the pods report is deleted, or changed, and is put back as it was."""

    def go(scenario):
        scenario.wait_for_pod("prepare")
        path = scenario.collection_path(f"{collection}/desk-stages", group)
        before = objects.get(scenario.rest, path)
        if change is None:
            scenario.delete(path)
        else:
            scenario.patch(path, change)

        def back():
            response = scenario.rest.get(path)
            return response.is_success and all(
                response.json().get(key) == before.get(key) for key in ("rules", "subjects")
            )

        until("it is put back", back, SECONDS)

    return go


def delete_account(scenario: ModelScenario):
    """A pod whose account is deleted cannot report any more; the next one has the account's new token."""
    remove_access("serviceaccounts", group="/api/v1")(scenario)
    scenario.pods.renew_token()
    scenario.fail_pod(scenario.wait_for_pod("prepare"), 75)


# -- somebody edits the model ----------------------------------------------------------------------------------------


def clear_status(scenario: ModelScenario):
    scenario.wait_for_pod("baseline")
    scenario.patch(f"{scenario.path}/status", {"status": None})


def overwrite_status(scenario: ModelScenario):
    scenario.wait_for_pod("baseline")
    ready_condition = {"type": "Ready", "status": "True", "reason": "AllIsWell", "message": "trust me"}
    foreign_condition = {"type": "Foreign", "status": "Unknown", "reason": "Why", "message": "not"}
    times = {"lastTransitionTime": "2026-01-02T03:04:05Z"}
    status = {
        "stage": "nonsense",
        "progress": "999/1",
        "conditions": [ready_condition | times, foreign_condition | times],
    }
    scenario.patch(f"{scenario.path}/status", {"status": status})
    until("the foreign conditions are gone", lambda: scenario.ready()[0] != "AllIsWell", SECONDS)


def suspend(scenario: ModelScenario):
    scenario.wait_for_pod("baseline")
    scenario.edit(suspend=True)
    until("its Jobs are gone", lambda: not _open_jobs(scenario), SECONDS)


def add_task_while_training(scenario: ModelScenario):
    """The work that is still wanted goes on; the other stops."""
    scenario.wait_for_pod("baseline")
    until("both are at work", lambda: len(scenario.pods.waiting()) == 2, SECONDS)
    before = {pod["metadata"]["uid"] for pod in scenario.pods.waiting()}
    scenario.edit(tasks=("urgency", task("intent", labels=["a", "b", "c", "d"])))
    scenario.pods.run_waiting(leave=("baseline",))

    def one_is_left():
        scenario.pods.run_waiting(leave=("baseline",))
        return len({pod["metadata"]["uid"] for pod in scenario.pods.waiting()} & before) == 1

    until("one of them goes on", one_is_left, SECONDS)


def delete_and_recreate_model(scenario: ModelScenario):
    """Another model of the same name, while the children of the first one are still going."""
    scenario.wait_for_pod("baseline")
    account = objects.get(scenario.rest, scenario.collection_path("serviceaccounts/desk-stages"))["metadata"]["uid"]
    former = _uids(scenario)
    scenario.delete(scenario.path)
    scenario.apply()
    until("its pods go", lambda: not former & _uids(scenario), SECONDS)

    def renewed():
        response = scenario.rest.get(scenario.collection_path("serviceaccounts/desk-stages"))
        return response.is_success and response.json()["metadata"]["uid"] != account

    until("its account is another", renewed, SECONDS)
    scenario.pods.renew_token()


def delete_model(scenario: ModelScenario):
    scenario.wait_for_pod("baseline")
    scenario.delete(scenario.path)
    scenario.wait_until_gone(scenario.path)
    until("its Jobs are gone", lambda: not scenario.operator_cluster.jobs.list_in(scenario.namespace), SECONDS)
    until("its ConfigMaps are gone", lambda: not list(_configmaps(scenario)), SECONDS)


def delete_namespace(scenario: ModelScenario):
    scenario.wait_for_pod("baseline")
    scenario.delete(f"/api/v1/namespaces/{scenario.namespace}")
    scenario.wait_until_gone(f"/api/v1/namespaces/{scenario.namespace}")


# -- what a namespace allows -------------------------------------------------------------------------------------------


def create_quota(**hard):
    def limit(scenario):
        create_claim(scenario)
        scenario.post("resourcequotas", {"metadata": {"name": "team"}, "spec": {"hard": hard}})
        path = scenario.collection_path("resourcequotas/team")
        until("the quota counts", lambda: "hard" in objects.get(scenario.rest, path).get("status", {}), SECONDS)

    return limit


def delete_quota(scenario: ModelScenario):
    scenario.delete(scenario.collection_path("resourcequotas/team"))


def create_limit_range(scenario: ModelScenario):
    create_claim(scenario)
    limit = {"type": "Container", "max": {"memory": "64Mi"}}
    scenario.post("limitranges", {"metadata": {"name": "small"}, "spec": {"limits": [limit]}})


def create_admission_policy(scenario: ModelScenario):
    """An admission policy that takes no pod, in this namespace alone."""
    create_claim(scenario)
    pods = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
    rule = {"matchConstraints": {"resourceRules": [pods]}, "validations": [POLICY]}
    objects.post(
        scenario.rest, f"{ADMISSION}/validatingadmissionpolicies", {"metadata": {"name": "cost"}, "spec": rule}
    )
    here = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": scenario.namespace}}}
    bound = {"policyName": "cost", "validationActions": ["Deny"], "matchResources": here}
    body = {"metadata": {"name": "cost"}, "spec": bound}
    objects.post(scenario.rest, f"{ADMISSION}/validatingadmissionpolicybindings", body)
    pod = {"metadata": {"name": "probe"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    path = scenario.collection_path("pods?dryRun=All")
    until(
        "the policy counts",
        lambda: scenario.rest.post(path, json=pod).status_code == httpx.codes.UNPROCESSABLE_ENTITY,
        60,
    )


def delete_admission_policy(scenario: ModelScenario):
    scenario.delete(f"{ADMISSION}/validatingadmissionpolicybindings/cost")


def delete_limit_range(scenario: ModelScenario):
    scenario.delete(scenario.collection_path("limitranges/small"))


def create_foreign_object(collection, body, group="/api/v1"):
    """An object that has a name of the model's own children."""

    def put(scenario):
        create_claim(scenario)
        scenario.post(collection, body, group)

    return put


def delete_object(path, group="/api/v1"):
    return lambda scenario: scenario.delete(scenario.collection_path(path, group))


def create_configmap(name, **data):
    return lambda scenario: scenario.post("configmaps", {"metadata": {"name": name}, "data": data})


def create_long_labels(scenario: ModelScenario):
    """As many and as long as a ConfigMap may hold of them, for each of many tasks."""
    create_claim(scenario)
    create_configmap("labels", words="\n".join(f"{number:03d} {'x' * 120}" for number in range(256)))(scenario)


def post_warning(reason, message):
    """A Warning about a pod that shows nothing, as a kubelet posts it."""

    def post(scenario):
        pod = scenario.wait_for_pod("resolve")
        about = {"kind": "Pod"} | {key: pod["metadata"][key] for key in ("namespace", "name", "uid")}
        body = {"metadata": {"name": "mount"}, "involvedObject": about, "type": "Warning", "reason": reason}
        scenario.set_waiting(pod, "ContainerCreating")
        scenario.post("events", body | {"message": message})

    return post


def _configmaps(scenario: ModelScenario):
    query = {"labelSelector": f"{MODEL_LABEL}={scenario.name}"}
    for item in (
        scenario.rest.get(scenario.collection_path("configmaps"), params=query).raise_for_status().json()["items"]
    ):
        yield scenario.collection_path(f"configmaps/{item['metadata']['name']}")


def _open_jobs(scenario: ModelScenario):
    jobs = scenario.operator_cluster.jobs.list_in(scenario.namespace)
    return [job for job in jobs if not (job.get("status") or {}).get("conditions")]


def _uids(scenario: ModelScenario):
    return {pod["metadata"]["uid"] for pod in scenario.operator_cluster.pods.list_in(scenario.namespace)}
