"""The chart: the objects that it renders, and the permissions of the operator."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from devcluster import chart
from devcluster.chart import CHART
from multitask_operator.settings import Settings, read_settings, variable
from support.rendered_chart import GATEWAY, OPERATOR, container, deployment, pod, rendered, rules

ROOT = Path(__file__).parents[3]
CRDS = ("multitaskmodels.multitask.dev", "taskroutes.multitask.dev")
VARIABLES = {variable(name) for name in Settings.__dataclass_fields__}


def test_its_crds_are_the_generated_ones():
    for path in sorted((CHART / "files" / "crds").iterdir()):
        assert path.read_text("utf-8") == (ROOT / "crds" / path.name).read_text("utf-8"), "run `make generate`"
    assert len(list((CHART / "files" / "crds").iterdir())) == len(CRDS)


def test_it_lints(helm):
    done = subprocess.run([helm, "lint", "--strict", str(CHART)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


OF_GATEWAY = ("Service", "PodDisruptionBudget", "ServiceAccount", "Deployment", "NetworkPolicy")


def test_the_objects_of_an_installation():
    name = "mtm-multitask-operator"
    assert set(rendered()) == {
        *(("CustomResourceDefinition", None, crd) for crd in CRDS),
        ("ServiceAccount", "operators", name),
        ("ClusterRole", None, name),
        ("ClusterRoleBinding", None, name),
        ("ClusterRole", None, f"{name}-view"),
        ("ClusterRole", None, f"{name}-mtm"),
        ("ClusterRole", None, f"{name}-edit"),
        ("Deployment", "operators", name),
        *((kind, "operators", "mtm-gateway") for kind in OF_GATEWAY),
        *(("Secret", "operators", f"mtm-gateway-{what}") for what in ("key", "callers", "tls")),
        *(
            (f"ClusterRole{what}", None, f"mtm-gateway{of}")
            for what in ("", "Binding")
            for of in ("", "-token-reviews")
        ),
        ("Pod", "operators", "mtm-gateway-test"),
    }


def test_without_serving_there_is_what_training_needs():
    name = "mtm-multitask-operator"
    options = "namespaces={a,b},aggregatedRoles=false,crds.enabled=false,serving.enabled=false,gateway.enabled=false"
    objects = rendered("--set", options)
    assert set(objects) == {
        ("ServiceAccount", "operators", name),
        *((kind, namespace, name) for kind in ("Role", "RoleBinding") for namespace in "ab"),
        ("Deployment", "operators", name),
    }
    subjects = objects["RoleBinding", "a", name]["subjects"]
    assert subjects == [{"kind": "ServiceAccount", "name": name, "namespace": "operators"}]
    environment = {each["name"]: each["value"] for each in container(objects)["env"]}
    assert environment["MULTITASK_NAMESPACES"] == "a,b"
    assert not [each for each in environment if "SERVING" in each or "GATEWAY" in each]


def test_with_namespaces_only_token_reviews_are_granted_in_the_whole_cluster():
    objects = rendered("--set", "namespaces={a,b},aggregatedRoles=false,crds.enabled=false")
    granted = [rule for (kind, *_), item in objects.items() if kind == "ClusterRole" for rule in item["rules"]]
    assert granted == [{"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]}]
    open_to_all = rendered(
        "--set", "namespaces={a,b},aggregatedRoles=false,crds.enabled=false,gateway.callers.enabled=false"
    )
    assert not [key for key in open_to_all if key[0].startswith("ClusterRole")]


def test_a_pod_monitor_scrapes_the_port_of_the_probes():
    objects = rendered("--set", "metrics.podMonitor.enabled=true,metrics.podMonitor.labels.release=prometheus")
    monitor = objects["PodMonitor", "operators", "mtm-multitask-operator"]
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] in [port["name"] for port in container(objects)["ports"]]
    assert endpoint["honorLabels"] is True, "else Prometheus puts the pod's namespace in the place of the model's"
    assert monitor["spec"]["selector"] == deployment(objects)["spec"]["selector"]


@pytest.mark.parametrize("keep", ["true", "false"])
def test_crds_are_kept_if_configured(keep):
    objects = rendered("--set", f"crds.keep={keep}")
    for crd in CRDS:
        definition = objects["CustomResourceDefinition", None, crd]
        file = next((CHART / "files" / "crds").glob(f"*_{definition['spec']['names']['plural']}.yaml"))
        written = yaml.safe_load(file.read_text("utf-8"))
        annotations = definition["metadata"].pop("annotations", None)
        assert annotations == ({"helm.sh/resource-policy": "keep"} if keep == "true" else None)
        assert definition == written


@pytest.mark.parametrize("options", [(), ("--set", "namespaces={a}")])
def test_the_operator_gets_the_least_it_needs_and_no_secret(options):
    objects = rendered("--set", "aggregatedRoles=false,serving.enabled=false,gateway.enabled=false", *options)
    granted = rules(objects, "Role" if options else "ClusterRole")
    allowed = {(resource, verb) for rule in granted for resource in rule["resources"] for verb in rule["verbs"]}
    named = {resource for resource, _ in allowed} | {verb for _, verb in allowed}
    groups = {group for rule in granted for group in rule["apiGroups"]}
    assert "*" not in named | groups
    assert not named & {"secrets", "escalate", "bind", "impersonate", "pods/exec", "deletecollection"}
    assert {resource for resource, verb in allowed if verb == "delete"} == {
        *("jobs", "configmaps", "services", "deployments", "networkpolicies", "poddisruptionbudgets", "taskroutes"),
    }
    assert ("namespaces", "get") in allowed
    models = {(resource, verb) for resource, verb in allowed if resource.startswith("multitaskmodels")}
    assert models == {
        *(("multitaskmodels", verb) for verb in ("get", "list", "watch", "patch")),
        ("multitaskmodels/status", "patch"),
    }
    assert ("configmaps", "get") in allowed
    assert ("configmaps", "patch") in allowed, "the operator must have what it grants to pods"


def test_the_operators_pod_has_few_rights():
    spec = deployment(rendered())["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})


@pytest.mark.parametrize("name", [OPERATOR, GATEWAY, "the test"])
def test_every_pod_has_few_rights(name):
    objects = rendered()
    spec = objects["Pod", "operators", "mtm-gateway-test"]["spec"] if name == "the test" else pod(objects, name)
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (only,) = spec["containers"]
    assert only["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    secrets = [volume["secret"] for volume in spec["volumes"] if "secret" in volume]
    keys = {item["key"] for each in secrets for item in each.get("items", [{"key": "all"}])}
    # Only the gateway has the key of its certificate, and the operator no key of a caller.
    assert keys == {OPERATOR: {"ca.crt"}, GATEWAY: {"all", "callers.yaml"}, "the test": {"ca.crt", "api-key"}}[name]


AS_IT_IS = Settings(
    trainer_image="multitask-trainer:0.1.0",
    serving_image="multitask-triton:0.1.0",
    gateway_namespace="operators",
    gateway_selector="app.kubernetes.io/name=multitask-gateway,app.kubernetes.io/instance=mtm,app.kubernetes.io/component=gateway",
    gateway_address="mtm-gateway.operators.svc:8081",
)

# options, the settings of the operator
SETTINGS = [
    ((), AS_IT_IS),
    (("--set", "gateway.tls.mode=None"), AS_IT_IS),
    (
        ("--set", "gateway.enabled=false,serving.enabled=false"),
        Settings(trainer_image="multitask-trainer:0.1.0"),
    ),
    (
        ("--set", "serving.maxConcurrentRollouts=7,servingImage.tag=v7,gateway.service.port=443"),
        replace(
            AS_IT_IS,
            max_concurrent_rollouts=7,
            serving_image="multitask-triton:v7",
            gateway_address="mtm-gateway.operators.svc:443",
        ),
    ),
    (
        ("--set", "trainerImage.tag=v7,trainerImage.pullPolicy=Never,namespaces={b,a},workers=2,resyncSeconds=60"),
        replace(
            AS_IT_IS,
            trainer_image="multitask-trainer:v7",
            image_pull_policy="Never",
            namespaces=("a", "b"),
            workers=2,
            resync_seconds=60,
        ),
    ),
    (
        ("--set", f"trainerImage.digest=sha256:{'0' * 64},gpuResource=amd.com/gpu"),
        replace(AS_IT_IS, trainer_image=f"multitask-trainer@sha256:{'0' * 64}", gpu_resource="amd.com/gpu"),
    ),
]


@pytest.mark.parametrize(("options", "expected"), SETTINGS)
def test_values_reach_the_operator(options, expected):
    environment = {each["name"]: each["value"] for each in container(rendered(*options))["env"]}
    assert {name for name in environment if name.startswith("MULTITASK_")} <= VARIABLES
    assert settings_of(*options) == expected


def settings_of(*options):
    """Without the file, which is there in a pod only."""
    environment = {each["name"]: each["value"] for each in container(rendered(*options))["env"]}
    environment.pop("MULTITASK_GATEWAY_CA_FILE", None)
    return read_settings({}, environment)


def test_operator_and_gateways_agree_on_who_has_short_names():
    assert settings_of("--set", "gateway.shortNameNamespaces={b,a}").short_name_namespaces == ("a", "b")
    assert settings_of().short_name_namespaces == ()


def test_the_operator_has_the_authority_of_the_gateway():
    objects = rendered()
    environment = {each["name"]: each["value"] for each in container(objects)["env"]}
    (mount,) = [mount for mount in container(objects)["volumeMounts"] if mount["name"] == "gateway-ca"]
    (volume,) = [volume for volume in pod(objects)["volumes"] if volume["name"] == "gateway-ca"]
    assert environment["MULTITASK_GATEWAY_CA_FILE"] == f"{mount['mountPath']}/ca.crt"
    assert volume["secret"] == {"secretName": "mtm-gateway-tls", "items": [{"key": "ca.crt", "path": "ca.crt"}]}


STAGE_PODS = {
    "podTemplate": {"metadata": {"labels": {"cost-center": "ml"}}, "spec": {"priorityClassName": "batch"}},
    "podTemplates": {"gpu": {"spec": {"tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}]}}},
}


def test_additions_to_stage_pods_reach_the_operator():
    stage_pods = settings_of("--set-json", f"stagePods={json.dumps(STAGE_PODS)}").stage_pods
    assert stage_pods.pod_template == STAGE_PODS["podTemplate"]
    assert stage_pods.pod_templates.of_kind("gpu") == STAGE_PODS["podTemplates"]["gpu"]


@pytest.mark.parametrize(
    ("options", "fixed"),
    [
        ((), True),
        (("--api-versions", "security.openshift.io/v1"), False),
        (("--set", "openshift=true"), False),
        (("--api-versions", "security.openshift.io/v1", "--set", "openshift=false"), True),
    ],
)
def test_openshift_gives_the_user(options, fixed):
    security = pod(rendered(*options))["securityContext"]
    assert security["runAsNonRoot"] is True
    assert ({"runAsUser", "runAsGroup"} <= security.keys()) is ("runAsUser" in security) is fixed
    assert settings_of(*options).fixed_user is fixed


def test_priority_and_environment_of_the_operator():
    variables = [
        {"name": "HTTPS_PROXY", "value": "http://p"},
        {"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "x"}}},
    ]
    objects = rendered("--set", "priorityClassName=system", "--set-json", f"extraEnv={json.dumps(variables)}")
    assert pod(objects)["priorityClassName"] == "system"
    assert [each for each in container(objects)["env"] if each in variables] == variables
    assert "priorityClassName" not in pod(rendered())


def test_a_network_policy_lets_the_operator_reach_the_api_server_and_be_probed():
    assert ("NetworkPolicy", "operators", "mtm-multitask-operator") not in rendered()
    objects = rendered("--set", "networkPolicy.enabled=true,networkPolicy.apiServerPorts={8443}")
    policy = objects["NetworkPolicy", "operators", "mtm-multitask-operator"]["spec"]
    labels = deployment(objects)["spec"]["template"]["metadata"]["labels"]
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()
    assert policy["ingress"] == [{"ports": [{"protocol": "TCP", "port": "health"}]}]
    assert {each["port"] for rule in policy["egress"] for each in rule["ports"]} == {53, 8443, 9090}


@pytest.mark.parametrize(
    ("value", "group"), [("Coscheduling", "scheduling.x-k8s.io"), ("Volcano", "scheduling.volcano.sh"), ("None", None)]
)
def test_the_operator_may_make_pod_groups_of_the_scheduler_that_is_named(value, group):
    options = ("--set", f"gangScheduling={value},aggregatedRoles=false,serving.enabled=false,gateway.enabled=false")
    granted = [rule for rule in rules(rendered(*options), "ClusterRole") if "podgroups" in rule["resources"]]
    assert [rule["apiGroups"] for rule in granted] == ([[group]] if group else [])
    assert settings_of(*options).gang_scheduling == value


def test_a_release_with_the_name_of_the_chart_does_not_repeat_it():
    done = chart.template(release="multitask-operator")
    assert done.returncode == 0, done.stderr
    assert "multitask-operator-multitask-operator" not in done.stdout


NO_CPU = "gateway.resources.requests.cpu=null"
CERTIFICATES = "gateway.tls.mode=Secret,gateway.tls.secretName=s,gateway.mutualTLS.enabled=true"


def callers(*entries: str) -> str:
    """Callers as an option: each ``x`` may call ``a``, and has what the entry says."""
    return ",".join(
        f"gateway.callers.entries[{number}].{each}"
        for number, entry in enumerate(entries)
        for each in ("name=x", "allow={a}", *filter(None, [entry]))
    )


INVALID = [
    ("replica=2", "replica"),
    ("namespaces={Team_A}", "namespaces"),
    ("gpuResource=gpu", "gpuResource"),
    ("workers=0", "workers"),
    ("trainerImage.repository=", "trainerImage"),
    ("image.pullPolicy=Sometimes", "pullPolicy"),
    ("gangScheduling=Yunikorn", "gangScheduling"),
    ("openshift=maybe", "openshift"),
    ("stagePods.podTemplate.containers=x", "podTemplate"),
    ("stagePods.podTemplates.gpus.spec.hostname=x", "gpus"),
    ("networkPolicy.apiServerPorts={70000}", "apiServerPorts"),
    ("extraEnv[0].nam=x", "extraEnv"),
    ("gateway.tls.mode=Off", "mode"),
    ("gateway.replicas=0", "replicas"),
    ("gateway.callers.entries[0].name=x", "allow"),
    ("gateway.callers.entries[0].name=x,gateway.callers.entries[0].allow={a/b/c/d}", "allow"),
    ("gateway.callers.entries[0].name=generated-key,gateway.callers.entries[0].allow={a}", "name"),
    ("gateway.service.type=ExternalName", "type"),
    ("proxy.https=proxy:3128", "https"),
    ("imageRegistry=registry.example/", "imageRegistry"),
    # what does not go together
    ("gateway.tls.mode=Secret", "gateway.tls.secretName"),
    ("gateway.tls.mode=CertManager", "issuerRef.name"),
    ("gateway.tls.mode=None,gateway.mutualTLS.enabled=true", "gateway.mutualTLS needs TLS"),
    ("gateway.mutualTLS.enabled=true", "no caller could get a certificate"),
    (
        "gateway.tls.mode=Secret,gateway.tls.secretName=s,gateway.mutualTLS.enabled=true,gateway.callers.enabled=false",
        "would let every certificate call everything",
    ),
    ("gateway.callers.generateKey=false", "lets nobody call"),
    ("gateway.callers.existingSecret=s,gateway.callers.entries[0].name=x,gateway.callers.entries[0].allow={a}", "both"),
    ("gateway.autoscaling.enabled=true,gateway.autoscaling.maxReplicas=1", "maxReplicas is less"),
    ("gateway.grpcRoute.enabled=true", "needs parentRefs"),
    ("gateway.enabled=false", "serving.enabled needs gateway.enabled"),
    (f"{CERTIFICATES},gateway.mutualTLS.port=8081", "both 8081"),
    (callers(""), "x has none of keys, certificates and serviceAccounts"),
    (callers("certificates={x.example}"), "x has certificates alone"),
    (callers("serviceAccounts={a/b}", "serviceAccounts={a/c}"), "x is there twice"),
    (
        f"serving.enabled=false,gateway.tokenReviews=false,{callers('serviceAccounts={a/b}')}",
        "x has serviceAccounts alone",
    ),
    (f"gateway.autoscaling.enabled=true,{NO_CPU}", "needs gateway.resources.requests.cpu"),
    ("namespaces={a,b},gateway.shortNameNamespaces={c}", "gateway.shortNameNamespaces: c is not among namespaces"),
    (
        r"stagePods.podTemplate.metadata.labels.multitask\.dev/model=x",
        "stagePods.podTemplate.metadata.labels: multitask",
    ),
    (
        r"stagePods.podTemplates.gpu.metadata.labels.app\.kubernetes\.io/managed-by=x",
        "stagePods.podTemplates.gpu.metadata.labels: app.kubernetes.io/managed-by is a label by which",
    ),
    ("serving.podTemplate.spec.restartPolicy=Never", "serving.podTemplate.spec.restartPolicy: the operator sets it"),
    (r"metrics.podMonitor.labels.app\.kubernetes\.io/name=x", "metrics.podMonitor.labels: app.kubernetes.io/name is a"),
    (r"gateway.podAnnotations.kubectl\.kubernetes\.io/default-container=x", "gateway.podAnnotations: kubectl"),
    ("gateway.tokenReviews=false", "the Job that verifies a revision could not call"),
]


@pytest.mark.parametrize(("value", "named"), INVALID)
def test_an_invalid_value_is_an_error_that_names_it(value, named):
    done = chart.template("--set", value)
    assert done.returncode != 0
    assert named in done.stderr
