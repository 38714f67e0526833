"""What goes wrong around a model, and what mends it: each is a step that a `Desk` goes through."""

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


def nothing(desk: ModelScenario):
    """It is as it should be."""


def claim(desk: ModelScenario, **more):
    """The claim that the model names."""
    objects.claim(desk.rest, desk.namespace, "models", **more)


def one_node_claim(desk: ModelScenario):
    claim(desk, modes=("ReadWriteOnce",))


def claim_that_goes(desk: ModelScenario):
    """A claim that somebody deleted while a pod has it mounted."""
    claim(desk)
    volume = {"name": "v", "persistentVolumeClaim": {"claimName": "models"}}
    user = {"containers": [{"name": "c", "image": "i"}], "volumes": [volume], "nodeName": "n"}
    desk.post("pods", {"metadata": {"name": "user"}, "spec": user})
    desk.delete(desk.of("persistentvolumeclaims/models"))


def claim_is_back(desk: ModelScenario):
    desk.delete(desk.of("pods/user"), gracePeriodSeconds=0)
    desk.gone(desk.of("persistentvolumeclaims/models"))
    desk.delete(f"/api/v1/persistentvolumes/{desk.namespace}-models")
    desk.gone(f"/api/v1/persistentvolumes/{desk.namespace}-models")
    claim(desk)


def lost_claim(desk: ModelScenario):
    """A claim whose volume somebody took away."""
    claim(desk)
    volume, path = f"/api/v1/persistentvolumes/{desk.namespace}-models", desk.of("persistentvolumeclaims/models")
    desk.delete(volume)
    desk.patch(volume, {"metadata": {"finalizers": None}})
    until("the claim is lost", lambda: objects.get(desk.rest, path)["status"]["phase"] == "Lost", SECONDS)


def another_claim(desk: ModelScenario):
    desk.delete(desk.of("persistentvolumeclaims/models"))
    desk.gone(desk.of("persistentvolumeclaims/models"))
    claim(desk)


def waits(reason, message="", kind="resolve", **more):
    return lambda desk: desk.waits(desk.pod(kind), reason, message, **more)


def unscheduled(message, kind="resolve"):
    return lambda desk: desk.unscheduled(desk.pod(kind), message)


def fails(kind, *arguments, **more):
    return lambda desk: desk.fail(desk.pod(kind), *arguments, **more)


def always_fails(kind, *arguments, **more):
    return lambda desk: desk.fail_always(kind, *arguments, **more)


def edits(**spec):
    return lambda desk: desk.edit(**spec)


def refreshes(desk: ModelScenario):
    desk.refresh()


def preempted_twice(desk: ModelScenario):
    """The Job does not count it."""
    target = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}
    for _ in range(2):
        pod = desk.pod("baseline")
        desk.pods.end(pod, "Failed", conditions=[target], exitCode=143, reason="Error")
        until("it is seen", lambda name=pod["metadata"]["name"]: name not in desk.waiting_names(), SECONDS)
    job = desk.job_of(desk.pod("baseline"))
    assert not objects.get(desk.rest, desk.of(f"jobs/{job}", BATCH))["status"].get("failed")


def admitted(desk: ModelScenario):
    """A queue lets every Job run, as Kueue does it."""

    def admit(desk):
        for job in desk.world.jobs.of(desk.namespace):
            if job["spec"].get("suspend") and "deletionTimestamp" not in job["metadata"]:
                path = desk.of(f"jobs/{job['metadata']['name']}", BATCH)
                answer = desk.rest.patch(path, json={"spec": {"suspend": False}}, headers=objects.MERGE)
                assert answer.is_success or answer.status_code == httpx.codes.NOT_FOUND, answer.text

    desk.steps.append(admit)


def ungated(desk: ModelScenario):
    """Whoever holds the gate opens it for every pod."""

    def open_gates(desk):
        for pod in desk.world.pods.of(desk.namespace):
            if pod["spec"].get("schedulingGates"):
                path = desk.of(f"pods/{pod['metadata']['name']}")
                answer = desk.rest.patch(path, json={"spec": {"schedulingGates": None}}, headers=objects.MERGE)
                assert answer.is_success or answer.status_code == httpx.codes.NOT_FOUND, answer.text

    desk.steps.append(open_gates)


def problems(*texts):
    """The look at the data finds these, until they are taken away and it looks again."""

    def find(desk):
        desk.pod("resolve")
        desk.pods.problems = texts
        desk.pods.work()

    return find


def found_after_all(desk: ModelScenario):
    desk.pods.problems = ()
    desk.refresh()


# -- what hands do to children -----------------------------------------------------------------------------------------


def deletes(collection, group="/api/v1", kind="baseline"):
    """The object of that collection that belongs to the unit at work."""
    return lambda desk: desk.delete(desk.of(f"{collection}/{desk.job_of(desk.pod(kind))}", group))


def holds_a_job(desk: ModelScenario):
    path = desk.of(f"jobs/{desk.job_of(desk.pod('base'))}", BATCH)
    desk.patch(path, {"metadata": {"finalizers": ["example.com/hold"]}})
    desk.delete(path, propagationPolicy="Background")


def lets_go(desk: ModelScenario):
    for job in desk.world.jobs.of(desk.namespace):
        if "deletionTimestamp" in job["metadata"]:
            desk.patch(desk.of(f"jobs/{job['metadata']['name']}", BATCH), {"metadata": {"finalizers": None}})


def deletes_pods(desk: ModelScenario):
    pod = desk.pod("baseline")
    desk.delete(desk.of(f"pods/{pod['metadata']['name']}"))
    desk.gone(desk.of(f"pods/{pod['metadata']['name']}"))


def edits_child(collection, change, group="/api/v1", kind="baseline"):
    return lambda desk: desk.patch(desk.of(f"{collection}/{desk.job_of(desk.pod(kind))}", group), change)


def spoils_results(desk: ModelScenario):
    """Garbage where the results of the base stand."""
    desk.pod("baseline")
    for path in _configmaps(desk):
        found = objects.get(desk.rest, path)
        if "binaryData" in found:
            garbage = base64.b64encode(b"garbage").decode()
            desk.patch(path, {"binaryData": dict.fromkeys(found["binaryData"], garbage)})


def deletes_snapshot(desk: ModelScenario):
    desk.pod("prepare")
    desk.delete(desk.of("configmaps/desk-run-1"))


def spoils_snapshot(desk: ModelScenario):
    desk.pod("prepare")
    desk.patch(desk.of("configmaps/desk-run-1"), {"data": {"snapshot.json": "garbage"}})


def access_goes(collection, change=None, group=RBAC):
    """One of the objects that let the pods report is deleted, or changed, and is put back as it was."""

    def go(desk):
        desk.pod("prepare")
        path = desk.of(f"{collection}/desk-stages", group)
        before = objects.get(desk.rest, path)
        if change is None:
            desk.delete(path)
        else:
            desk.patch(path, change)

        def back():
            found = desk.rest.get(path)
            return found.is_success and all(found.json().get(key) == before.get(key) for key in ("rules", "subjects"))

        until("it is put back", back, SECONDS)

    return go


def account_goes(desk: ModelScenario):
    """A pod whose account is deleted cannot report any more; the next one has the account's new token."""
    access_goes("serviceaccounts", group="/api/v1")(desk)
    desk.pods.renew()
    desk.fail(desk.pod("prepare"), 75)


# -- what hands do to the model ----------------------------------------------------------------------------------------


def wipes_status(desk: ModelScenario):
    desk.pod("baseline")
    desk.patch(f"{desk.path}/status", {"status": None})


def scribbles_status(desk: ModelScenario):
    desk.pod("baseline")
    said = {"type": "Ready", "status": "True", "reason": "AllIsWell", "message": "trust me"}
    stranger = {"type": "Stranger", "status": "Unknown", "reason": "Why", "message": "not"}
    times = {"lastTransitionTime": "2026-01-02T03:04:05Z"}
    status = {"stage": "nonsense", "progress": "999/1", "conditions": [said | times, stranger | times]}
    desk.patch(f"{desk.path}/status", {"status": status})
    until("what it said is gone", lambda: desk.ready()[0] != "AllIsWell", SECONDS)


def suspends(desk: ModelScenario):
    desk.pod("baseline")
    desk.edit(suspend=True)
    until("its Jobs are gone", lambda: not _open_jobs(desk), SECONDS)


def another_task_in_the_middle(desk: ModelScenario):
    """The work that is still wanted goes on; the other stops."""
    desk.pod("baseline")
    until("both are at work", lambda: len(desk.pods.waiting()) == 2, SECONDS)
    before = {pod["metadata"]["uid"] for pod in desk.pods.waiting()}
    desk.edit(tasks=("urgency", task("intent", labels=["a", "b", "c", "d"])))
    desk.pods.work(leave=("baseline",))

    def one_is_left():
        desk.pods.work(leave=("baseline",))
        return len({pod["metadata"]["uid"] for pod in desk.pods.waiting()} & before) == 1

    until("one of them goes on", one_is_left, SECONDS)


def made_again(desk: ModelScenario):
    """Another model of the same name, while the children of the first one are still going."""
    desk.pod("baseline")
    account = objects.get(desk.rest, desk.of("serviceaccounts/desk-stages"))["metadata"]["uid"]
    former = _uids(desk)
    desk.delete(desk.path)
    desk.apply()
    until("its pods go", lambda: not former & _uids(desk), SECONDS)

    def renewed():
        found = desk.rest.get(desk.of("serviceaccounts/desk-stages"))
        return found.is_success and found.json()["metadata"]["uid"] != account

    until("its account is another", renewed, SECONDS)
    desk.pods.renew()


def deletes_model(desk: ModelScenario):
    desk.pod("baseline")
    desk.delete(desk.path)
    desk.gone(desk.path)
    until("its Jobs are gone", lambda: not desk.world.jobs.of(desk.namespace), SECONDS)
    until("its ConfigMaps are gone", lambda: not list(_configmaps(desk)), SECONDS)


def deletes_namespace(desk: ModelScenario):
    desk.pod("baseline")
    desk.delete(f"/api/v1/namespaces/{desk.namespace}")
    desk.gone(f"/api/v1/namespaces/{desk.namespace}")


# -- what a namespace allows -------------------------------------------------------------------------------------------


def quota(**hard):
    def limit(desk):
        claim(desk)
        desk.post("resourcequotas", {"metadata": {"name": "team"}, "spec": {"hard": hard}})
        path = desk.of("resourcequotas/team")
        until("the quota counts", lambda: "hard" in objects.get(desk.rest, path).get("status", {}), SECONDS)

    return limit


def without_quota(desk: ModelScenario):
    desk.delete(desk.of("resourcequotas/team"))


def small_limits(desk: ModelScenario):
    claim(desk)
    limit = {"type": "Container", "max": {"memory": "64Mi"}}
    desk.post("limitranges", {"metadata": {"name": "small"}, "spec": {"limits": [limit]}})


def policy(desk: ModelScenario):
    """An admission policy that takes no pod, in this namespace alone."""
    claim(desk)
    pods = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
    rule = {"matchConstraints": {"resourceRules": [pods]}, "validations": [POLICY]}
    objects.post(desk.rest, f"{ADMISSION}/validatingadmissionpolicies", {"metadata": {"name": "cost"}, "spec": rule})
    here = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": desk.namespace}}}
    bound = {"policyName": "cost", "validationActions": ["Deny"], "matchResources": here}
    body = {"metadata": {"name": "cost"}, "spec": bound}
    objects.post(desk.rest, f"{ADMISSION}/validatingadmissionpolicybindings", body)
    pod = {"metadata": {"name": "probe"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    path = desk.of("pods?dryRun=All")
    until(
        "the policy counts", lambda: desk.rest.post(path, json=pod).status_code == httpx.codes.UNPROCESSABLE_ENTITY, 60
    )


def without_policy(desk: ModelScenario):
    desk.delete(f"{ADMISSION}/validatingadmissionpolicybindings/cost")


def without_limits(desk: ModelScenario):
    desk.delete(desk.of("limitranges/small"))


def strangers(collection, body, group="/api/v1"):
    """An object that has a name of the model's own children."""

    def put(desk):
        claim(desk)
        desk.post(collection, body, group)

    return put


def without(path, group="/api/v1"):
    return lambda desk: desk.delete(desk.of(path, group))


def configmap(name, **data):
    return lambda desk: desk.post("configmaps", {"metadata": {"name": name}, "data": data})


def long_labels(desk: ModelScenario):
    """As many and as long as a ConfigMap may hold of them, for each of many tasks."""
    claim(desk)
    configmap("labels", words="\n".join(f"{number:03d} {'x' * 120}" for number in range(256)))(desk)


def event(reason, message):
    """A Warning about a pod that shows nothing, as a kubelet posts it."""

    def post(desk):
        pod = desk.pod("resolve")
        about = {"kind": "Pod"} | {key: pod["metadata"][key] for key in ("namespace", "name", "uid")}
        body = {"metadata": {"name": "mount"}, "involvedObject": about, "type": "Warning", "reason": reason}
        desk.waits(pod, "ContainerCreating")
        desk.post("events", body | {"message": message})

    return post


def _configmaps(desk: ModelScenario):
    query = {"labelSelector": f"{MODEL_LABEL}={desk.name}"}
    for item in desk.rest.get(desk.of("configmaps"), params=query).raise_for_status().json()["items"]:
        yield desk.of(f"configmaps/{item['metadata']['name']}")


def _open_jobs(desk: ModelScenario):
    jobs = desk.world.jobs.of(desk.namespace)
    return [job for job in jobs if not (job.get("status") or {}).get("conditions")]


def _uids(desk: ModelScenario):
    return {pod["metadata"]["uid"] for pod in desk.world.pods.of(desk.namespace)}
