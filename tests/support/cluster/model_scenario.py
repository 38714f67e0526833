"""One model in a namespace of its own: steps of its user and of a kubelet, and what its status shows."""

from __future__ import annotations

import json
import time

import httpx

from devcluster import objects
from devcluster.cluster_client import Object
from devcluster.processes import until
from multitask_api.cluster import DIGEST_ANNOTATION, KIND_LABEL, STAGE_ANNOTATION
from multitask_operator.commands.cluster.diagnosis import diagnose
from multitask_operator.commands.cluster.options import ClusterOptions
from multitask_operator.commands.cluster.session import read_cluster_state, run_with_client
from multitask_operator.objects.user_pod_template import CONTAINER
from support.cluster.fake_pods import FakePods
from support.cluster.model_factory import make_model
from support.cluster.operator_cluster import MODELS, OperatorCluster

#: Of any one step, on a machine that has much else to do.
SECONDS = 240.0
STAND_IN = {"name": CONTAINER, "image": "registry.example/trainer:1", "imageID": "", "ready": False, "restartCount": 0}


class ModelScenario:
    """``resource`` is the model; ``edit_document`` changes the document just before it is applied."""

    def __init__(
        self,
        operator_cluster: OperatorCluster,
        namespace: str,
        name="desk",
        edit_document=lambda document: None,
        **spec,
    ):
        self.operator_cluster, self.namespace, self.name, self._edit_document = (
            operator_cluster,
            namespace,
            name,
            edit_document,
        )
        self.rest: httpx.Client = operator_cluster.client.rest()
        self.steps = []
        self.pods = None
        self._spec = spec
        self.resource = self._build_resource()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.rest.close()
        if self.pods is not None:
            self.pods.__exit__()

    # -- a user --------------------------------------------------------------------------------------------------------

    def apply(self):
        """As ``kubectl apply --server-side`` does it."""
        document = self.resource.to_json()
        document["metadata"]["namespace"] = self.namespace
        training = document["spec"]["training"]
        for key in ("podTemplate", "resources"):
            if not training[key]:
                del training[key]  # nobody writes that it is empty
        self._edit_document(document)
        headers = {"Content-Type": "application/apply-patch+yaml"}
        query = {"fieldManager": "kubectl", "force": "true"}
        answer = self.rest.patch(self.path, content=json.dumps(document), headers=headers, params=query)
        assert answer.is_success, answer.text
        if self.pods is None:
            pods = self.operator_cluster.pods
            self.pods = FakePods(
                self.operator_cluster.client, self.namespace, self.resource, lambda: pods.list_in(self.namespace)
            )

    def edit(self, edit_document=lambda document: None, **spec):
        """Apply it again with other fields; None takes one away."""
        self._edit_document = edit_document
        self._spec = {key: value for key, value in (self._spec | spec).items() if value is not None}
        self.resource = self._build_resource()
        if self.pods is not None:
            self.pods.resource = self.resource
        self.apply()

    def refresh(self):
        """Request a refresh: the operator checks the data again."""
        self.patch(self.path, {"metadata": {"annotations": {"multitask.dev/refresh": str(time.time())}}})

    @property
    def path(self) -> str:
        return f"{MODELS}/namespaces/{self.namespace}/multitaskmodels/{self.name}"

    def collection_path(self, collection, group="/api/v1"):
        """The path of a collection in the namespace."""
        return f"{group}/namespaces/{self.namespace}/{collection}"

    def patch(self, path, change) -> Object:
        answer = self.rest.patch(path, json=change, headers=objects.MERGE)
        assert answer.is_success, answer.text
        return answer.json()

    def post(self, collection, body, group="/api/v1"):
        objects.post(self.rest, self.collection_path(collection, group), body)

    def delete(self, path, **options):
        answer = self.rest.request("DELETE", path, json=options or None)
        assert answer.is_success, answer.text

    def wait_until_gone(self, path):
        """Wait until there is no such object."""
        until(f"{path} is gone", lambda: self.rest.get(path).status_code == httpx.codes.NOT_FOUND, SECONDS)

    # -- a kubelet -----------------------------------------------------------------------------------------------------

    def wait_for_pod(self, kind="resolve") -> Object:
        """Let all pods of earlier stages run to their end; the first pod of ``kind`` then, which waits."""
        pods = []

        def stands():
            self._step(leave=(kind,))
            pods[:] = [pod for pod in self.pods.waiting() if pod["metadata"]["labels"][KIND_LABEL] == kind]
            return bool(pods)

        self._until(f"a pod of {kind} stands", stands)
        return pods[0]

    def waiting_names(self) -> list[str]:
        return [pod["metadata"]["name"] for pod in self.pods.waiting()]

    def job_of(self, pod) -> str:
        return pod["metadata"]["labels"]["batch.kubernetes.io/job-name"]

    def set_pod(self, pod, **status):
        objects.patch_status(self.rest, self.collection_path(f"pods/{pod['metadata']['name']}"), status)

    def set_waiting(self, pod, reason, message="", init=None):
        """The pod's container waits, as a kubelet says it; ``init``: it is that init container."""
        state = {"state": {"waiting": {"reason": reason, "message": message}}}
        if init is None:
            self.set_pod(pod, containerStatuses=[STAND_IN | state])
        else:
            self.set_pod(pod, initContainerStatuses=[STAND_IN | state | {"name": init}])

    def set_unschedulable(self, pod, message):
        """As the scheduler says it."""
        condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
        self.set_pod(pod, conditions=[condition])

    def fail_pod(self, pod, code, kind=None, words="", reason="Error", printed=""):
        """The pod's program ends with ``code``; with a ``kind`` its ConfigMap has the failure ``words``."""
        if kind is not None:
            job = self.job_of(pod)
            notes = self.rest.get(self.collection_path(f"configmaps/{job}")).json()["metadata"].get("annotations", {})
            stages, digests = (notes.get(key, "").split(",") for key in (STAGE_ANNOTATION, DIGEST_ANNOTATION))
            failure = {"stage": stages[0] or "resolve", "kind": kind, "message": words, "digest": digests[0]}
            self.pods.patch_configmap(job, {"data": {"failure.json": json.dumps(failure)}})
        self.pods.finish_pod(pod, "Failed", exitCode=code, reason=reason, message=printed)

    def fail_job(self, kind, *arguments, **more):
        """Every attempt of the first Job of ``kind`` ends so, until the Job has failed."""
        job = self.job_of(self.wait_for_pod(kind))

        def over():
            for pod in self.pods.waiting():
                if self.job_of(pod) == job:
                    self.fail_pod(pod, *arguments, **more)
            existing = self.operator_cluster.jobs.get(self.namespace, job)
            conditions = (existing or {}).get("status", {}).get("conditions", ())
            return any(each["type"] == "Failed" for each in conditions)

        self._until(f"Job {job} has failed", over)

    def train(self):
        """Every pod runs to its end until the model is trained."""

        def trained():
            self._step()
            return self.status().get("stage") == "Trained"

        self._until("the model is trained", trained)

    # -- what is shown -------------------------------------------------------------------------------------------------

    def status(self) -> Object:
        existing = self.operator_cluster.models.get(self.namespace, self.name)
        return (existing or {}).get("status") or {}

    def ready(self) -> tuple[str, str]:
        """Reason and message of Ready, if it is about what was applied last."""
        for each in self.status().get("conditions", ()):
            if each["type"] == "Ready":
                return each["reason"], each["message"]
        return "", ""

    def wait_for_ready(self, reason, part):
        """Wait until Ready has this reason and message; `mtm explain` gives the same."""

        def ready():
            condition = self.ready()
            return condition[0] == reason and part in condition[1]

        self._until(f"Ready says {reason}: …{part}…", ready)
        seen = []

        def same():
            where = ClusterOptions(self.namespace, kubeconfig=self.operator_cluster.viewer)
            now = time.time()
            diagnosis = diagnose(
                run_with_client(where, lambda client, namespace: read_cluster_state(client, namespace, self.name, now)),
                now,
            )
            seen[:] = [f"{diagnosis.reason}: {diagnosis.message}; {diagnosis.next}"]
            return diagnosis.reason == reason and part in seen[0] and bool(diagnosis.next)

        try:
            until("explain says the same", same, 30)
        except TimeoutError as error:
            raise AssertionError(f"Ready has the reason {reason}, and explain {seen}") from error

    def _build_resource(self):
        spec = {"storage": {"uri": f"pvc://models/{self.name}"}} | self._spec
        return make_model(*spec.pop("tasks", ("urgency",)), name=self.name, **spec)

    def _step(self, leave=()):
        for step in self.steps:
            step(self)
        self.pods.run_waiting(leave)

    def _until(self, what, probe):
        try:
            until(what, probe, SECONDS)
        except TimeoutError as error:
            pods = [
                (pod["metadata"]["name"], pod["status"].get("phase"))
                for pod in self.operator_cluster.pods.list_in(self.namespace)
            ]
            raise AssertionError(f"{self.namespace}: {error}; Ready: {self.ready()}; pods: {pods}") from error
