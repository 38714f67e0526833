"""The pod template of a Job, and how a podTemplate may change it."""

from __future__ import annotations

import pytest

from multitask_operator.objects.errors import PodTemplateError
from multitask_operator.objects.pods import PodSettings, pod_template
from support.object_samples import OWNER, SETTINGS, job_spec, resource


def template(kind="baseline", settings=SETTINGS, **spec):
    desk = resource(**spec)
    return pod_template(OWNER, desk.spec, job_spec(desk, kind), settings)


def with_template(given, **training):
    return template(training={"gpusPerNode": 0, "podTemplate": given, **training})


def trainer(pod):
    (container,) = [each for each in pod["spec"]["containers"] if each["name"] == "trainer"]
    return container


def environment(pod):
    return {each["name"]: each["value"] for each in trainer(pod)["env"]}


def test_the_whole_pod():
    name = job_spec(resource(), "baseline").name
    assert template() == {
        "metadata": {
            "labels": {
                "app.kubernetes.io/managed-by": "multitask-operator",
                "multitask.dev/model": "desk",
                "multitask.dev/kind": "baseline",
            },
            "annotations": {"kubectl.kubernetes.io/default-container": "trainer"},
        },
        "spec": {
            "restartPolicy": "Never",
            "serviceAccountName": "desk-stages",
            "automountServiceAccountToken": True,
            "terminationGracePeriodSeconds": 120,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 10001,
                "runAsGroup": 10001,
                "fsGroup": 10001,
                "fsGroupChangePolicy": "OnRootMismatch",
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "trainer",
                    "image": "registry.example/trainer:1",
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["python", "-m", "multitask_trainer.pod"],
                    "env": [
                        {"name": "MULTITASK_CONFIGMAP", "value": f"team-a/{name}"},
                        {"name": "MULTITASK_MOUNTS", "value": '{"models":"/multitask/claims/models"}'},
                        {"name": "OMP_NUM_THREADS", "value": "1"},
                        {"name": "HOME", "value": "/multitask/work"},
                        {"name": "TMPDIR", "value": "/multitask/work/tmp"},
                        {"name": "HF_HOME", "value": "/multitask/work/huggingface"},
                        {"name": "XDG_CACHE_HOME", "value": "/multitask/work/cache"},
                        {"name": "XDG_CONFIG_HOME", "value": "/multitask/work/config"},
                        {"name": "TOKENIZERS_PARALLELISM", "value": "false"},
                        {"name": "PYTHONUNBUFFERED", "value": "1"},
                    ],
                    "resources": {"requests": {"cpu": "1", "memory": "1Gi"}},
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "capabilities": {"drop": ["ALL"]},
                        "readOnlyRootFilesystem": True,
                    },
                    "terminationMessagePolicy": "FallbackToLogsOnError",
                    "volumeMounts": [
                        {"name": "orders", "mountPath": "/multitask/orders", "readOnly": True},
                        {"name": "work", "mountPath": "/multitask/work"},
                        {"name": "shm", "mountPath": "/dev/shm"},
                        {"name": "claim-models", "mountPath": "/multitask/claims/models"},
                    ],
                }
            ],
            "volumes": [
                {
                    "name": "orders",
                    "configMap": {"name": name, "items": [{"key": "orders.json", "path": "orders.json"}]},
                },
                {"name": "work", "emptyDir": {}},
                {"name": "shm", "emptyDir": {"medium": "Memory"}},
                {"name": "claim-models", "persistentVolumeClaim": {"claimName": "models"}},
            ],
        },
    }


@pytest.mark.parametrize("kind", ["resolve", "clean-up"])
def test_what_runs_no_stage_reads_its_own_order_and_takes_little(kind):
    given = {"spec": {"nodeSelector": {"pool": "storage"}}}
    pod = template(kind, training={"gpusPerNode": 8, "podTemplate": given})
    (orders,) = [volume for volume in pod["spec"]["volumes"] if volume["name"] == "orders"]
    assert orders["configMap"]["items"] == [{"key": f"{kind}.json", "path": f"{kind}.json"}]
    assert pod["spec"]["nodeSelector"] == {"pool": "storage"}
    assert trainer(pod)["resources"] == {
        "requests": {"cpu": "250m", "memory": "512Mi"},
        "limits": {"cpu": "2", "memory": "4Gi"},
    }
    assert trainer(pod)["command"] == ["python", "-m", "multitask_trainer.pod"]


def test_secrets_are_named_and_never_read():
    pod = template(
        credentials=[{"secretRef": {"name": "hub-token"}}, {"secretRef": {"name": "bucket"}}],
        imagePullSecrets=[{"name": "registry"}],
        serviceAccountName="reader",
    )
    assert trainer(pod)["envFrom"] == [{"secretRef": {"name": "hub-token"}}, {"secretRef": {"name": "bucket"}}]
    assert pod["spec"]["imagePullSecrets"] == [{"name": "registry"}]
    assert pod["spec"]["serviceAccountName"] == "reader"


def test_the_installation_sets_image_pull_policy_and_the_name_of_a_gpu():
    settings = PodSettings("other:2", "Always", "amd.com/gpu")
    container = trainer(template("mixture", settings, training={"gpusPerNode": 1}))
    assert (container["image"], container["imagePullPolicy"]) == ("other:2", "Always")
    assert container["resources"]["limits"] == {"amd.com/gpu": "1"}


# GPUs, nodes, kind → the command after "python -m", subdomain
LAUNCHES = [
    (0, 1, "mixture", ["multitask_trainer.pod"], False),
    (1, 1, "mixture", ["multitask_trainer.pod"], False),
    (4, 1, "mixture", ["multitask_trainer.launch", "--processes=4"], False),
    (0, 2, "mixture", ["multitask_trainer.launch", "--processes=1", "--nodes=2"], True),
    (4, 2, "mixture", ["multitask_trainer.launch", "--processes=4", "--nodes=2"], True),
    (4, 2, "evaluate", ["multitask_trainer.launch", "--processes=4", "-m"], False),
    (4, 2, "export", ["multitask_trainer.pod"], False),
]


@pytest.mark.parametrize(("count", "pods", "kind", "program", "together"), LAUNCHES)
def test_several_processes_are_launched_together(count, pods, kind, program, together):
    pod = template(kind, training={"gpusPerNode": count, "nodes": pods})
    assert trainer(pod)["command"][2 : 2 + len(program)] == program
    assert ("subdomain" in pod["spec"]) is together


def test_threads_are_shared_by_the_processes_of_a_pod():
    pod = template("mixture", training={"gpusPerNode": 4, "resources": {"limits": {"cpu": "16"}}})
    assert environment(pod)["OMP_NUM_THREADS"] == "4"


ALLOWED = [
    ("another image", {"containers": [{"name": "trainer", "image": "thin:1"}]}),
    ("an environment from the node", {"volumes": [{"name": "python", "hostPath": {"path": "/opt/env"}}]}),
    ("a node", {"nodeSelector": {"pool": "gpu"}, "tolerations": [{"key": "gpu", "operator": "Exists"}]}),
    ("a variable", {"containers": [{"name": "trainer", "env": [{"name": "HF_HUB_OFFLINE", "value": "1"}]}]}),
    ("a sidecar", {"containers": [{"name": "proxy", "image": "p"}]}),
    ("another user", {"securityContext": {"runAsUser": 1000, "fsGroup": 1000}}),
    (
        "fast scratch space",
        {
            "volumes": [
                {
                    "name": "work",
                    "$retainKeys": ["name", "ephemeral"],
                    "ephemeral": {"volumeClaimTemplate": {"spec": {"accessModes": ["ReadWriteOnce"]}}},
                }
            ]
        },
    ),
    (
        "scratch space on a volume of one's own",
        {
            "containers": [{"name": "trainer", "volumeMounts": [{"mountPath": "/multitask/work", "name": "fast"}]}],
            "volumes": [{"name": "fast", "hostPath": {"path": "/fast"}}],
        },
    ),
    ("less shared memory", {"volumes": [{"name": "shm", "emptyDir": {"sizeLimit": "1Gi"}}]}),
    (
        "a mount of one's own",
        {"containers": [{"name": "trainer", "volumeMounts": [{"mountPath": "/x", "name": "work"}]}]},
    ),
]


@pytest.mark.parametrize(("sentence", "given"), ALLOWED, ids=[row[0] for row in ALLOWED])
def test_a_pod_template_may_give(sentence, given):
    assert with_template({"spec": given}) != template()
    assert trainer(with_template({"spec": given}))["command"] == trainer(template())["command"]


def test_labels_and_annotations_are_added():
    pod = with_template({"metadata": {"labels": {"team": "a"}, "annotations": {"sidecar.istio.io/inject": "false"}}})
    assert pod["metadata"]["labels"].items() >= template()["metadata"]["labels"].items() | {("team", "a")}


def on_trainer(**fields):
    return {"spec": {"containers": [{"name": "trainer", **fields}]}}


T = "spec.containers[trainer]"
REFUSED = [
    (
        "containers in the wrong place",
        {"containers": []},
        "containers: not known; a pod template has metadata and spec",
    ),
    ("another command", on_trainer(command=["sh"]), f"{T}.command: remove it; the operator sets what the stage runs"),
    ("arguments", on_trainer(args=["--fast"]), f"{T}.args: remove it; the operator sets what the stage runs"),
    (
        "another ConfigMap",
        on_trainer(env=[{"name": "MULTITASK_CONFIGMAP", "value": "x/y"}]),
        f"{T}.env[MULTITASK_CONFIGMAP]: remove it; the operator sets it",
    ),
    (
        "no mounts",
        on_trainer(env=[{"name": "MULTITASK_MOUNTS", "$patch": "delete"}]),
        f"{T}.env[MULTITASK_MOUNTS]: remove it; the operator sets it",
    ),
    (
        "other orders",
        on_trainer(volumeMounts=[{"mountPath": "/multitask/orders", "name": "mine"}]),
        f"{T}.volumeMounts[/multitask/orders]: remove it; what lies below /multitask is the operator's",
    ),
    (
        "a claim that is not mounted",
        on_trainer(volumeMounts=[{"mountPath": "/multitask/claims/models", "$patch": "delete"}]),
        f"{T}.volumeMounts[/multitask/claims/models]: remove it",
    ),
    (
        "a mount among the claims",
        on_trainer(volumeMounts=[{"mountPath": "/multitask/claims/mine", "name": "x"}]),
        f"{T}.volumeMounts[/multitask/claims/mine]: remove it",
    ),
    (
        "nowhere to write",
        on_trainer(volumeMounts=[{"mountPath": "/multitask/work", "$patch": "delete"}]),
        f"{T}.volumeMounts[/multitask/work]: keep it; the stage writes there",
    ),
    (
        "no trainer",
        {"spec": {"containers": [{"name": "trainer", "$patch": "delete"}, {"name": "x", "image": "y"}]}},
        f"{T}: keep it; it runs the stage",
    ),
    (
        "other orders in the volume",
        {"spec": {"volumes": [{"name": "orders", "configMap": {"name": "mine"}}]}},
        "spec.volumes[orders]: remove it; the operator mounts it. Give your own volume another name",
    ),
    (
        "a volume with two sources",
        {"spec": {"volumes": [{"name": "work", "hostPath": {"path": "/fast"}}]}},
        "spec.volumes[work]: has emptyDir and hostPath; to keep one, add $retainKeys: [name, hostPath]",
    ),
    (
        "another model's label",
        {"metadata": {"labels": {"multitask.dev/model": "other"}}},
        "metadata.labels[multitask.dev/model]: remove it; the operator finds its pods by it",
    ),
    ("no labels", {"metadata": {"labels": None}}, "metadata.labels[app.kubernetes.io/managed-by]: remove it"),
    (
        "an annotation of ours",
        {"metadata": {"annotations": {"multitask.dev/digest": "x"}}},
        "metadata.annotations[multitask.dev/digest]: remove it",
    ),
    (
        "restarts",
        {"spec": {"restartPolicy": "OnFailure"}},
        "spec.restartPolicy: remove it; the operator handles the end of a stage",
    ),
    (
        "another account",
        {"spec": {"serviceAccountName": "x"}},
        "spec.serviceAccountName: remove it; spec.serviceAccountName sets it",
    ),
    ("no token", {"spec": {"automountServiceAccountToken": False}}, "spec.automountServiceAccountToken: remove it"),
    ("a host name", {"spec": {"hostname": "x"}}, "spec.hostname: remove it; the pods of a stage find each other"),
    ("nothing of ours", {"spec": {"$patch": "replace", "containers": []}}, "spec.restartPolicy: remove it"),
    ("no spec", {"spec": None}, "spec.restartPolicy: remove it"),
    ("a list", {"spec": []}, "spec: expected a mapping, got []"),
]


@pytest.mark.parametrize(("sentence", "given", "message"), REFUSED, ids=[row[0] for row in REFUSED])
def test_a_pod_template_may_not_give(sentence, given, message):
    with pytest.raises(PodTemplateError) as raised:
        with_template(given)
    assert str(raised.value).startswith(f"spec.training.podTemplate.{message}")


def test_the_platform_may_give_user_and_group():
    """OpenShift's restricted-v2 refuses a user that a pod names, and gives each namespace users of its own."""
    for kind in ("resolve", "mixture", "clean-up"):
        pod = template(kind, PodSettings("t:1", fixed_user=False))
        assert environment(pod)["USER"]
        assert pod["spec"]["securityContext"] == {
            "runAsNonRoot": True,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        }


CLAIMS = {"resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "two-gpus"}]}
ON_TRAINER = {"containers": [{"name": "trainer", "resources": {"claims": [{"name": "gpu", "request": "all"}]}}]}

# the sentence, what podTemplate gives, the kind, GPUs → resources of the trainer, device claims of the pod
DEVICES = [
    ("training gets the devices", CLAIMS, "mixture", 2, {"claims": [{"name": "gpu"}]}, True),
    ("an engine gets them", CLAIMS, "evaluate", 2, {"claims": [{"name": "gpu"}]}, True),
    (
        "as the spec says, if it does",
        CLAIMS | ON_TRAINER,
        "mixture",
        2,
        {"claims": [{"name": "gpu", "request": "all"}]},
        True,
    ),
    ("what needs no GPU claims no device", CLAIMS, "bundle", 2, {}, False),
    ("nor names one", CLAIMS | ON_TRAINER, "prepare", 2, {"limits": {"cpu": "2", "memory": "4Gi"}}, False),
    ("without GPUs nothing does", CLAIMS | ON_TRAINER, "mixture", 0, {}, False),
]


@pytest.mark.parametrize(
    ("sentence", "given", "kind", "count", "expected", "claimed"), DEVICES, ids=[row[0] for row in DEVICES]
)
def test_a_device_claim_means_a_gpu(sentence, given, kind, count, expected, claimed):
    pod = template(kind, training={"gpusPerNode": count, "podTemplate": {"spec": given}})
    resources = trainer(pod)["resources"]
    assert {name: value for name, value in resources.items() if name != "requests"} == expected
    assert ("resourceClaims" in pod["spec"]) is claimed


def test_a_pod_with_claimed_devices_starts_a_process_for_each():
    pod = template("mixture", training={"gpusPerNode": 2, "podTemplate": {"spec": CLAIMS}})
    assert "--processes=2" in trainer(pod)["command"]
