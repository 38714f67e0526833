"""What people add to stage pods, on a real API server: an error is named where it was written, before the first Job;
and quotas and limit ranges do not stop the small stages."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from devcluster import chart, objects
from devcluster.cluster_client import ClusterClient
from devcluster.processes import until
from multitask_api.resource import MultiTaskModel
from multitask_kubernetes.client import Client
from multitask_kubernetes.connection import connect
from multitask_kubernetes.errors import RequestRejected
from multitask_operator.cluster.apply import Applied, apply
from multitask_operator.cluster.observe import observe
from multitask_operator.controller import Controller, NamespacedName, WriteRejected
from multitask_operator.local.cluster_objects import cluster_problems
from multitask_operator.objects.jobs import pod_group, stage_job
from multitask_operator.objects.names import Owner
from multitask_operator.objects.pods import PodSettings
from multitask_operator.reconciler import reconcile
from multitask_operator.reconciler.actions import Create
from multitask_operator.settings import Settings, read_settings
from support.cluster import resources
from support.object_samples import job_spec, resource

MODELS = "/apis/multitask.dev/v1alpha1/namespaces/{}/multitaskmodels"
ENVIRONMENT = {"MULTITASK_TRAINER_IMAGE": "example.test/trainer:1"}
T = "spec.training.podTemplate"
SETTINGS = PodSettings("t:1")


@pytest.fixture
async def client(cluster: ClusterClient) -> AsyncIterator[Client]:
    async with Client(await connect(cluster.admin)) as connected:
        yield connected


def create(rest: httpx.Client, namespace: str, **training: Any) -> None:
    """A model whose claims are there."""
    for name in ("data", "models"):
        objects.claim(rest, namespace, name)
    objects.post(rest, MODELS.format(namespace), resources.model(training=training))


async def reconcile_once(client: Client, namespace: str, settings: Settings) -> None:
    await Controller(client, settings, reconcile).reconcile(NamespacedName(namespace, "desk"))


def take_away(rest: httpx.Client, namespace: str, *fields: str) -> None:
    body = {"spec": {"training": dict.fromkeys(fields)}}
    assert rest.patch(f"{MODELS.format(namespace)}/desk", json=body, headers=objects.MERGE).is_success


def exists(rest: httpx.Client, path: str) -> bool:
    return rest.get(path).is_success


def job_names(rest: httpx.Client, namespace: str) -> list[str]:
    return [
        job["metadata"]["name"] for job in objects.get(rest, f"/apis/batch/v1/namespaces/{namespace}/jobs")["items"]
    ]


def ready(rest: httpx.Client, namespace: str) -> tuple[str, str]:
    status = objects.get(rest, f"{MODELS.format(namespace)}/desk")["status"]
    return next((each["reason"], each["message"]) for each in status["conditions"] if each["type"] == "Ready")


def spec(**fields: Any) -> dict[str, Any]:
    return {"spec": fields}


def on_trainer(**fields: Any) -> dict[str, Any]:
    return spec(containers=[{"name": "trainer", **fields}])


# the sentence, training → what Ready names
ERRORS = {
    "fields that no pod has": (
        {"podTemplate": spec(tolerationz=[{"operator": "Exists"}], nodeselector={"pool": "gpu"})},
        (f"{T}.spec.tolerationz: unknown field", f"{T}.spec.nodeselector: unknown field"),
    ),
    "a field that no container has": (
        {"podTemplate": on_trainer(resurces={})},
        (f"{T}.spec.containers[0].resurces: unknown field",),
    ),
    "a field of a sidecar": (
        {"podTemplate": spec(containers=[{"name": "trainer"}, {"name": "proxy", "image": "p", "prots": []}])},
        (f"{T}.spec.containers[1].prots: unknown field",),
    ),
    "a field that only pods with a GPU have": (
        {"podTemplates": {"gpu": spec(tolerationz=[])}},
        ("the Job of mixture is refused: spec.training.podTemplates.gpu.spec.tolerationz: unknown field",),
    ),
    "a field that only the pods of one stage have": (
        {"gpusPerNode": 0, "podTemplates": {"export": spec(nodeselector={})}},
        ("spec.training.podTemplates.export.spec.nodeselector: unknown field",),
    ),
    "a value that is none": (
        {"podTemplates": {"gpu": spec(tolerations=[{"key": "a", "operator": "Exist"}])}},
        ('spec.training.podTemplates.gpu.spec.tolerations[0].operator: Unsupported value: "Exist"',),
    ),
    "a number where text is wanted": (
        {"podTemplate": spec(nodeSelector={"pool": 1})},
        (f"{T}.spec.nodeSelector of type string",),
    ),
    "a resource that is none": (
        {"resources": {"limits": {"memroy": "4Gi"}}},
        ('spec.training.resources.limits.memroy: Invalid value: "memroy"',),
    ),
    "a label that is none": (
        {"podTemplate": {"metadata": {"labels": {"team": "a b"}}}},
        (f'{T}.metadata.labels: Invalid value: "a b"',),
    ),
}


@pytest.mark.parametrize("sentence", ERRORS)
async def test_an_error_in_an_addition_is_named_before_the_first_job(
    client: Client, rest: httpx.Client, namespace: str, sentence: str
) -> None:
    training, named = ERRORS[sentence]
    settings = read_settings({}, ENVIRONMENT)
    create(rest, namespace, **training)
    with pytest.raises(WriteRejected):
        await reconcile_once(client, namespace, settings)
    reason, message = ready(rest, namespace)
    assert reason == "WriteRefused"
    assert all(each in message for each in named), message
    assert job_names(rest, namespace) == []
    said_before = cluster_problems(MultiTaskModel.model_validate(resources.model(training=training)))
    assert said_before, "mtm validate says it without a cluster"
    take_away(rest, namespace, "podTemplate", "podTemplates", "resources")
    await reconcile_once(client, namespace, settings)
    assert len(job_names(rest, namespace)) == 1
    assert ready(rest, namespace)[0] == "NotTrained"


async def test_an_error_of_the_installation_is_named_as_such(
    client: Client, rest: httpx.Client, namespace: str
) -> None:
    stage_pods = {"podTemplate": spec(nodeselector={})}
    create(rest, namespace)
    with pytest.raises(WriteRejected):
        await reconcile_once(
            client, namespace, read_settings({}, ENVIRONMENT | {"MULTITASK_STAGE_PODS": json.dumps(stage_pods)})
        )
    assert "the installation's stagePods.podTemplate.spec.nodeselector: unknown field" in ready(rest, namespace)[1]


@pytest.mark.parametrize("verb", ["create", "apply", "dry run"])
async def test_no_write_leaves_out_a_field_that_the_object_cannot_have(
    client: Client, rest: httpx.Client, namespace: str, verb: str
) -> None:
    body = {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": "x", "namespace": namespace},
        "sercets": [],
    }
    with pytest.raises(RequestRejected, match="sercets"):
        await (client.apply(body) if verb == "apply" else client.create(body, dry_run=verb == "dry run"))
    del body["sercets"]
    await (client.apply(body) if verb == "apply" else client.create(body, dry_run=verb == "dry run"))
    assert exists(rest, f"/api/v1/namespaces/{namespace}/serviceaccounts/x") is (verb != "dry run")


QUOTA = {"limits.cpu": "100", "limits.memory": "500Gi", "requests.cpu": "100", "requests.memory": "500Gi"}
RANGE = {"type": "Container", "default": {"memory": "512Mi"}, "defaultRequest": {"memory": "256Mi"}}
NARROW = {"type": "Container", "max": {"memory": "1Gi"}}
SMALL_KINDS = ("resolve", "prepare", "filter", "clean-up")


@pytest.mark.parametrize("kind", [*SMALL_KINDS, "base", "baseline", "mixture", "bundle", "evaluate", "export"])
@pytest.mark.parametrize(("count", "given"), [(0, {"cpu": "2", "memory": "4Gi"}), (1, {"cpu": "8", "memory": "64Gi"})])
def test_a_quota_on_limits_lets_every_stage_have_its_pod(
    rest: httpx.Client, namespace: str, kind: str, count: int, given: dict[str, str]
) -> None:
    post(rest, namespace, "ResourceQuota", {"hard": QUOTA})
    pod = pod_of(rest, namespace, kind, gpusPerNode=count, resources={"limits": given})
    (container,) = pod["spec"]["containers"]
    assert container["resources"]["limits"].keys() >= {"cpu", "memory"}


@pytest.mark.parametrize("kind", SMALL_KINDS)
def test_a_default_of_the_namespace_does_not_make_a_small_stage_run_out_of_memory(
    rest: httpx.Client, namespace: str, kind: str
) -> None:
    post(rest, namespace, "LimitRange", {"limits": [RANGE]})
    (container,) = pod_of(rest, namespace, kind)["spec"]["containers"]
    assert container["resources"]["limits"]["memory"] == "4Gi"


def test_a_stage_follows_the_setting_that_a_message_names(rest: httpx.Client, namespace: str) -> None:
    post(rest, namespace, "LimitRange", {"limits": [NARROW]})
    lower = on_trainer(resources={"limits": {"memory": "1Gi"}})
    (container,) = pod_of(rest, namespace, "prepare", podTemplates={"prepare": lower})["spec"]["containers"]
    assert container["resources"]["limits"] == {"cpu": "2", "memory": "1Gi"}


CLAIMS = {"resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "gpus"}]}


@pytest.mark.parametrize("kind", ["base", "baseline", "bundle"])
def test_claimed_devices_are_taken_instead_of_the_gpu_resource(rest: httpx.Client, namespace: str, kind: str) -> None:
    spec = pod_of(rest, namespace, kind, gpusPerNode=2, podTemplate={"spec": CLAIMS})["spec"]
    (container,) = spec["containers"]
    claims = {"baseline": [{"name": "gpu"}]}.get(kind)
    assert "nvidia.com/gpu" not in container["resources"].get("limits", {})
    assert (container["resources"].get("claims"), bool(spec.get("resourceClaims"))) == (claims, claims is not None)


def test_what_the_chart_adds_reaches_a_pod(rest: httpx.Client, namespace: str) -> None:
    common = {"metadata": {"labels": {"cost-center": "ml"}}, "spec": {"terminationGracePeriodSeconds": 7}}
    options = ("--set-json", f"stagePods={json.dumps({'podTemplate': common})}", "--set", "openshift=true")
    options = (*options, "--set", "serving.enabled=false,gateway.enabled=false")
    (deployment,) = (item for item in chart.rendered(*options) if item["kind"] == "Deployment")
    (operator,) = deployment["spec"]["template"]["spec"]["containers"]
    settings = read_settings({}, {each["name"]: each["value"] for each in operator["env"]})
    pods = PodSettings("t:1", fixed_user=settings.fixed_user, defaults=settings.stage_pods)
    pod = pod_of(rest, namespace, "resolve", pods)
    assert pod["metadata"]["labels"]["cost-center"] == "ml"
    assert pod["spec"]["terminationGracePeriodSeconds"] == 7
    assert "runAsUser" not in pod["spec"]["securityContext"]
    jobs = objects.get(rest, f"/apis/batch/v1/namespaces/{namespace}/jobs")["items"]
    assert [job["metadata"]["labels"]["cost-center"] for job in jobs] == ["ml"]


GROUP = "scheduling.x-k8s.io"
POD_GROUPS = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {
        "name": f"podgroups.{GROUP}",
        "annotations": {"api-approved.kubernetes.io": "unapproved, for a test"},
    },
    "spec": {
        "group": GROUP,
        "scope": "Namespaced",
        "names": {"kind": "PodGroup", "plural": "podgroups", "singular": "podgroup", "listKind": "PodGroupList"},
        "versions": [
            {
                "name": "v1alpha1",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            "spec": {"type": "object", "properties": {"minMember": {"type": "integer", "minimum": 1}}}
                        },
                    }
                },
            }
        ],
    },
}


async def test_a_pod_group_is_made_or_the_missing_scheduler_named(
    client: Client, rest: httpx.Client, namespace: str
) -> None:
    create(rest, namespace)
    state = await observe(client, namespace, "desk", 0.0)
    assert state is not None
    desk = resource(training={"gpusPerNode": 1, "nodes": 2})
    baseline, owner = job_spec(desk, "baseline"), Owner.of(state.model)
    volcano, own = (
        pod_group(owner, desk.spec, baseline, PodSettings("t:1", gang_scheduling=each))
        for each in ("Volcano", "Coscheduling")
    )
    assert volcano is not None
    assert own is not None
    rejected = (await apply(client, state, [Create(volcano)])).rejected_write
    assert rejected is not None
    assert "install the scheduler that serves scheduling.volcano.sh/v1beta1" in rejected.message
    install(rest, POD_GROUPS, f"/apis/{GROUP}/v1alpha1/namespaces/{namespace}/podgroups")
    assert await apply(client, state, [Create(own), Create(own)]) == Applied()
    name = own["metadata"]["name"]
    assert exists(rest, f"/apis/{GROUP}/v1alpha1/namespaces/{namespace}/podgroups/{name}")


def install(rest: httpx.Client, definition: dict[str, Any], path: str) -> None:
    rest.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", json=definition)
    until(f"{path} is served", lambda: exists(rest, path), seconds=30)


def test_a_job_on_several_nodes_makes_all_its_pods(rest: httpx.Client, namespace: str) -> None:
    pod_of(rest, namespace, "mixture", nodes=2)
    path = f"/api/v1/namespaces/{namespace}/pods"
    until("both pods are made", lambda: len(objects.get(rest, path)["items"]) == 2, seconds=60)


def post(rest: httpx.Client, namespace: str, kind: str, body: dict[str, Any]) -> None:
    path = f"/api/v1/namespaces/{namespace}/{kind.lower()}s"
    objects.post(rest, path, {"apiVersion": "v1", "kind": kind, "metadata": {"name": "team"}, "spec": body})


def pod_of(
    rest: httpx.Client, namespace: str, kind: str, pods: PodSettings = SETTINGS, **training: Any
) -> dict[str, Any]:
    """The pod that the Job controller makes for a stage of ``kind``."""
    desk = resource(training={"gpusPerNode": 0, **training}, serviceAccountName="default")
    job = stage_job(Owner(namespace, "desk", "u"), desk.spec, job_spec(desk, kind), pods)
    job["metadata"] |= {"namespace": namespace}
    del job["metadata"]["ownerReferences"]
    objects.post(rest, f"/apis/batch/v1/namespaces/{namespace}/jobs", job)
    made: list[dict[str, Any]] = []

    def is_made() -> bool:
        made[:] = objects.get(rest, f"/api/v1/namespaces/{namespace}/pods")["items"]
        return bool(made)

    until(f"the Job of {kind} has a pod", is_made, seconds=60)
    return made[0]
