"""The gateway's part of the chart: its pods, who may call it, its certificate, its rights, what may reach it."""

from __future__ import annotations

import base64
import json
import ssl
from pathlib import Path

import pytest
import yaml
from cryptography import x509

from devcluster import chart
from multitask_api.cluster import KIND_LABEL, MANAGED_BY, MANAGED_BY_LABEL
from multitask_api.serving_io.verify import VERIFY_REVISION
from multitask_serving.gateway.access.callers import CallersFile, hash_key
from multitask_serving.gateway.access.tls import CertificateFolder
from multitask_serving.gateway.cluster.settings import OPTIONS, read_settings
from multitask_serving.gateway.labels.request_ids import read_key
from multitask_serving.gateway.smoke_test import _parser as smoke_test_parser
from support.rendered_chart import GATEWAY, OPERATOR, Map, Objects, container, deployment, pod, rendered

KEY = "k" * 40
ENTRY = {"name": "shop", "keys": [hash_key(KEY)], "allow": ["team-a"]}


def environment(objects: Objects, name: str = GATEWAY) -> dict[str, str]:
    return {each["name"]: each["value"] for each in container(objects, name)["env"] if "value" in each}


def secret(objects: Objects, name: str) -> dict[str, bytes]:
    data = objects["Secret", "operators", f"mtm-gateway-{name}"]["data"]
    return {key: base64.b64decode(value) for key, value in data.items()}


def set_json(path: str, value: object) -> tuple[str, str]:
    return "--set-json", f"{path}={json.dumps(value)}"


# -- pods --------------------------------------------------------------------------------------------------------------


def test_its_settings_are_those_of_the_program() -> None:
    options = (
        *("--set", "namespaces={b,a},gateway.maxConnectionAgeSeconds=60,gateway.drainSeconds=7"),
        *("--set", "gateway.shortNameNamespaces={a}"),
    )
    given = environment(rendered(*options))
    known = {variable for variable, *_ in OPTIONS.values()}
    assert {name for name in given if name.startswith("MULTITASK_")} <= known
    settings = read_settings([], given)
    assert (settings.namespaces, settings.short_name_namespaces) == (("b", "a"), ("a",))
    assert (settings.max_connection_age_s, settings.drain_s) == (60, 7)


def test_a_gateway_ends_after_its_calls() -> None:
    objects = rendered("--set", "gateway.drainSeconds=100,gateway.maxConnectionAgeSeconds=300")
    settings = read_settings([], environment(objects))
    longest = settings.drain_delay_s + 1.1 * settings.max_connection_age_s + settings.drain_s
    assert longest < pod(objects, GATEWAY)["terminationGracePeriodSeconds"] < longest + 30
    assert deployment(objects, GATEWAY)["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert container(objects, GATEWAY)["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "state"}


def test_neither_operator_nor_gateway_selects_the_pods_of_the_other() -> None:
    objects = rendered()
    for name, other in ((OPERATOR, GATEWAY), (GATEWAY, OPERATOR)):
        selector = deployment(objects, name)["spec"]["selector"]["matchLabels"]
        assert selector.items() <= deployment(objects, name)["spec"]["template"]["metadata"]["labels"].items()
        assert not selector.items() <= deployment(objects, other)["spec"]["template"]["metadata"]["labels"].items()
    service = objects["Service", "operators", GATEWAY]["spec"]
    assert service["selector"] == deployment(objects, GATEWAY)["spec"]["selector"]["matchLabels"]
    assert [(port["appProtocol"], port["port"]) for port in service["ports"]] == [("grpc", 8081)]


def test_the_operator_finds_the_gateways() -> None:
    objects = rendered("--set", "namespaces={a}")
    given = environment(objects, OPERATOR)
    labels = deployment(objects, GATEWAY)["spec"]["template"]["metadata"]["labels"]
    pairs = [pair.split("=") for pair in given["MULTITASK_GATEWAY_SELECTOR"].split(",")]
    assert {name: labels[name] for name, _ in pairs} == dict(pairs)
    assert given["MULTITASK_GATEWAY_NAMESPACE"] == "operators"
    assert given["MULTITASK_GATEWAY_ADDRESS"] == "mtm-gateway.operators.svc:8081"
    (rule,) = objects["Role", "operators", f"{OPERATOR}-gateways"]["rules"]
    assert rule == {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]}


def test_the_disruption_budget_is_behind_a_switch_of_its_own() -> None:
    objects = rendered("--set", "gateway.podDisruptionBudget.enabled=false,gateway.autoscaling.enabled=true")
    assert not [key for key in objects if key[0] == "PodDisruptionBudget"]
    assert ("HorizontalPodAutoscaler", "operators", GATEWAY) in objects


def test_replicas_are_left_to_the_autoscaler() -> None:
    assert deployment(rendered(), GATEWAY)["spec"]["replicas"] == 2
    objects = rendered("--set", "gateway.autoscaling.enabled=true,gateway.autoscaling.maxReplicas=5")
    assert "replicas" not in deployment(objects, GATEWAY)["spec"]
    scaler = objects["HorizontalPodAutoscaler", "operators", GATEWAY]["spec"]
    assert scaler["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": GATEWAY}
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (2, 5)


IMAGES = [
    ((), "multitask-gateway:0.1.0", "multitask-triton:0.1.0"),
    (
        ("--set", "imageRegistry=r.example/mirror"),
        *(f"r.example/mirror/multitask-{x}:0.1.0" for x in ("gateway", "triton")),
    ),
    (
        ("--set", f"gatewayImage.digest=sha256:{'0' * 64},servingImage.tag=v2"),
        f"multitask-gateway@sha256:{'0' * 64}",
        "multitask-triton:v2",
    ),
]


@pytest.mark.parametrize(("options", "gateway", "serving"), IMAGES)
def test_images(options: tuple[str, ...], gateway: str, serving: str) -> None:
    objects = rendered(*options)
    assert container(objects, GATEWAY)["image"] == gateway
    assert objects["Pod", "operators", "mtm-gateway-test"]["spec"]["containers"][0]["image"] == gateway
    assert environment(objects, OPERATOR)["MULTITASK_SERVING_IMAGE"] == serving


# -- callers -----------------------------------------------------------------------------------------------------------


def test_the_generated_key_may_call_everything_and_stands_nowhere_but_in_its_secret(tmp_path: Path) -> None:
    objects = rendered(*set_json("gateway.callers.entries", [ENTRY]))
    key = secret(objects, "key")["api-key"].decode()
    (tmp_path / "callers.yaml").write_bytes(secret(objects, "callers")["callers.yaml"])
    callers = CallersFile(tmp_path / "callers.yaml").callers
    generated, shop = callers.with_key(key), callers.with_key(KEY)
    assert generated is not None
    assert generated.may_call_everything
    assert shop is not None
    assert shop.may_call("team-a/desk/urgency")
    assert not shop.may_call("team-b/desk/urgency")
    assert yaml.safe_dump_all(objects.values()).count(key) == 0
    mounted = [volume["secret"]["secretName"] for volume in pod(objects, GATEWAY)["volumes"] if "secret" in volume]
    assert mounted == ["mtm-gateway-tls", "mtm-gateway-callers"]


@pytest.mark.parametrize(
    ("options", "secrets", "mounted"),
    [
        (("--set", "gateway.callers.existingSecret=mine"), [], "mine"),
        (
            ("--set", "gateway.callers.generateKey=false", *set_json("gateway.callers.entries", [ENTRY])),
            ["mtm-gateway-callers"],
            "mtm-gateway-callers",
        ),
        (("--set", "gateway.callers.enabled=false"), [], None),
    ],
)
def test_other_callers(options: tuple[str, ...], secrets: list[str], mounted: str | None) -> None:
    objects = rendered("--set", "gateway.tls.mode=None,test.apiKeySecret=t", *options)
    assert [name for kind, _, name in objects if kind == "Secret"] == secrets
    volumes = [volume["secret"]["secretName"] for volume in pod(objects, GATEWAY)["volumes"] if "secret" in volume]
    assert volumes == ([mounted] if mounted else [])
    assert ("MULTITASK_CALLERS_FILE" in environment(objects)) is (mounted is not None)


# -- labels ------------------------------------------------------------------------------------------------------------


def test_labels_are_off() -> None:
    objects = rendered()
    assert ("Secret", "operators", "mtm-gateway-labels") not in objects
    assert read_settings([], environment(objects)).label_key_file is None


def test_all_gateways_sign_with_one_key(tmp_path: Path) -> None:
    objects = rendered("--set", "gateway.labels.enabled=true")
    (tmp_path / "key").write_bytes(secret(objects, "labels")["label-key"])
    assert len(read_key(tmp_path / "key")) == 48
    own = rendered("--set", "gateway.labels.enabled=true,gateway.labels.existingSecret=mine")
    assert ("Secret", "operators", "mtm-gateway-labels") not in own
    for each, name in ((objects, "mtm-gateway-labels"), (own, "mine")):
        (volume,) = [volume for volume in pod(each, GATEWAY)["volumes"] if volume["name"] == "labels"]
        (mount,) = [mount for mount in container(each, GATEWAY)["volumeMounts"] if mount["name"] == "labels"]
        assert volume["secret"]["secretName"] == name
        (item,) = volume["secret"]["items"]
        file = read_settings([], environment(each)).label_key_file
        assert file == Path(mount["mountPath"]) / item["path"]


# -- certificates ------------------------------------------------------------------------------------------------------


def test_the_generated_certificate_is_for_every_name_of_the_service(tmp_path: Path) -> None:
    objects = rendered("--set", "gateway.tls.dnsNames={gateway.example.com}")
    files = secret(objects, "tls")
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    CertificateFolder(tmp_path)  # certificate and key belong together
    certificate = x509.load_pem_x509_certificate(files["tls.crt"])
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(files["ca.crt"]))
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    address = environment(objects, OPERATOR)["MULTITASK_GATEWAY_ADDRESS"]
    assert set(names.get_values_for_type(x509.DNSName)) == {
        *(
            "mtm-gateway",
            "mtm-gateway.operators",
            address.rpartition(":")[0],
            "mtm-gateway.operators.svc.cluster.local",
        ),
        *("localhost", "gateway.example.com"),
    }
    assert ssl.create_default_context(cadata=files["ca.crt"].decode()).get_ca_certs()
    assert environment(objects)["MULTITASK_TLS_FOLDER"] in [
        mount["mountPath"] for mount in container(objects, GATEWAY)["volumeMounts"]
    ]


def test_a_certificate_of_cert_manager() -> None:
    objects = rendered(
        "--set", "gateway.tls.mode=CertManager,gateway.tls.certManager.issuerRef.name=i,gateway.mutualTLS.enabled=true"
    )
    certificate = objects["Certificate", "operators", GATEWAY]["spec"]
    assert certificate["issuerRef"] == {"name": "i", "kind": "Issuer", "group": "cert-manager.io"}
    assert "mtm-gateway.operators.svc" in certificate["dnsNames"]
    mounted = [volume["secret"]["secretName"] for volume in pod(objects, GATEWAY)["volumes"] if "secret" in volume]
    assert mounted[0] == certificate["secretName"]
    assert "mtm-gateway-tls" not in [name for kind, _, name in objects if kind == "Secret"]
    ports = {port["name"]: port["port"] for port in objects["Service", "operators", GATEWAY]["spec"]["ports"]}
    assert ports == {"grpc": 8081, "grpc-mtls": 8082}
    assert environment(objects)["MULTITASK_MUTUAL_TLS_LISTEN"] == "[::]:8082"


def test_without_tls_nothing_of_it_is_left() -> None:
    objects = rendered("--set", "gateway.tls.mode=None")
    text = yaml.safe_dump_all(item for (kind, *_), item in objects.items() if kind != "CustomResourceDefinition")
    assert "tls" not in text.lower()
    assert "ca.crt" not in text


# -- rights, and who reaches what --------------------------------------------------------------------------------------

RIGHTS = {
    *(("taskroutes", verb) for verb in ("get", "list", "watch")),
    ("taskroutes/status", "patch"),
    *(("endpointslices", verb) for verb in ("get", "list", "watch")),
}


@pytest.mark.parametrize("options", [(), ("--set", "namespaces={a}")])
def test_its_rights_are_a_closed_list(options: tuple[str, ...]) -> None:
    objects = rendered(*options)
    role = objects["Role", "a", GATEWAY] if options else objects["ClusterRole", None, GATEWAY]
    granted = {(resource, verb) for rule in role["rules"] for resource in rule["resources"] for verb in rule["verbs"]}
    assert granted == RIGHTS
    bound: set[str] = set()
    for (kind, _, name), item in objects.items():
        if kind.endswith("RoleBinding") or kind == "ClusterRoleBinding":
            accounts = [each["name"] for each in item["subjects"]]
            bound |= {item["roleRef"]["name"]} if GATEWAY in accounts else set()
            assert name == item["roleRef"]["name"]
    assert bound == {GATEWAY, f"{GATEWAY}-token-reviews"}


def test_state_and_metrics_are_for_the_operator_and_prometheus() -> None:
    objects = rendered()
    policy = objects["NetworkPolicy", "operators", GATEWAY]["spec"]
    assert policy["podSelector"]["matchLabels"] == deployment(objects, GATEWAY)["spec"]["selector"]["matchLabels"]
    calls, state = policy["ingress"]
    assert [port["port"] for port in calls["ports"]] == ["grpc"]
    assert "from" not in calls
    assert [port["port"] for port in state["ports"]] == ["state"]
    operator, prometheus = state["from"]
    assert operator == {"podSelector": {"matchLabels": deployment(objects)["spec"]["selector"]["matchLabels"]}}
    assert prometheus["podSelector"] == {"matchLabels": {"app.kubernetes.io/name": "prometheus"}}
    closed = rendered(
        *set_json("gateway.networkPolicy.metricsFrom", []),
        *set_json("gateway.networkPolicy.from", [{"podSelector": {}}]),
    )
    calls, state = closed["NetworkPolicy", "operators", GATEWAY]["spec"]["ingress"]
    assert state["from"] == [operator]
    verification, test, *given = calls["from"]
    assert given == [{"podSelector": {}}]
    labels = {MANAGED_BY_LABEL: MANAGED_BY, KIND_LABEL: VERIFY_REVISION}
    assert verification == {"namespaceSelector": {}, "podSelector": {"matchLabels": labels}}
    of_test = objects["Pod", "operators", "mtm-gateway-test"]["metadata"]["labels"]
    assert test["podSelector"]["matchLabels"].items() <= of_test.items()


def test_switches() -> None:
    options = (
        *(
            "--set",
            "metrics.podMonitor.enabled=true,gateway.networkPolicy.enabled=false,gateway.grpcRoute.enabled=true",
        ),
        *("--set", "gateway.grpcRoute.parentRefs[0].name=public,gateway.grpcRoute.hostnames={a.example}"),
    )
    objects = rendered(*options)
    monitor = objects["PodMonitor", "operators", GATEWAY]["spec"]
    (endpoint,) = monitor["podMetricsEndpoints"]
    assert endpoint["port"] in [port["name"] for port in container(objects, GATEWAY)["ports"]]
    assert endpoint["honorLabels"] is True
    assert monitor["selector"] == deployment(objects, GATEWAY)["spec"]["selector"]
    route = objects["GRPCRoute", "operators", GATEWAY]["spec"]
    assert (route["parentRefs"], route["hostnames"]) == ([{"name": "public"}], ["a.example"])
    assert route["rules"] == [{"backendRefs": [{"name": GATEWAY, "port": 8081}]}]
    assert ("NetworkPolicy", "operators", GATEWAY) not in objects


# -- helm test ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "task", "fields"),
    [((), "", {}), (("--set", "test.task=desk/urgency,test.fields.text=Help me"), "desk/urgency", {"text": "Help me"})],
)
def test_helm_test_runs_the_programs_options(options: tuple[str, ...], task: str, fields: Map) -> None:
    objects = rendered(*options)
    test = objects["Pod", "operators", "mtm-gateway-test"]
    assert test["metadata"]["annotations"]["helm.sh/hook"] == "test"
    (only,) = test["spec"]["containers"]
    given = smoke_test_parser().parse_args(only["args"])
    assert (given.address, given.task, given.fields) == ("mtm-gateway.operators.svc:8081", task, fields)
    mounted = {mount["mountPath"] for mount in only["volumeMounts"]}
    assert {str(given.ca.parent), str(given.api_key_file.parent)} <= mounted


@pytest.mark.parametrize(
    ("options", "has_test"),
    [
        (("--set", "gateway.callers.existingSecret=mine"), False),
        (("--set", "gateway.callers.existingSecret=mine,test.apiKeySecret=own"), True),
        (("--set", "gateway.callers.enabled=false"), True),
        (("--set", "serving.enabled=false,gateway.enabled=false"), False),
        # Settings of a gateway that is not installed are in nobody's way.
        (("--set", "serving.enabled=false,gateway.enabled=false,gateway.tls.mode=Secret"), False),
    ],
)
def test_there_is_a_helm_test_where_it_can_call(options: tuple[str, ...], has_test: bool) -> None:
    test = rendered(*options).get(("Pod", "operators", "mtm-gateway-test"))
    assert (test is not None) is has_test


def test_the_names_of_a_release_with_a_long_name() -> None:
    done = chart.template(release="a" * 53)
    assert done.returncode == 0, done.stderr
    names = [item["metadata"]["name"] for item in yaml.safe_load_all(done.stdout) if item and item["kind"] == "Service"]
    assert names == [f"{'a' * 53}-gateway"]
