"""Proxy, authorities and hub reach the pods that go out of the cluster, and what the values say themselves stays."""

from __future__ import annotations

import json
from typing import Any

import pytest

from support.rendered_chart import OPERATOR, Map, container, rendered

ALL = (
    *("--set", "proxy.http=http://p:1,proxy.https=http://p:2,proxy.except={.corp,10.0.0.0/8}"),
    *("--set", "caBundle.configMap=company-ca,hubEndpoint=https://hub.corp"),
)
NO_PROXY = "localhost,127.0.0.1,.svc,.cluster.local,$(KUBERNETES_SERVICE_HOST),.corp,10.0.0.0/8"
ENVIRONMENT = {
    "HTTP_PROXY": "http://p:1",
    "HTTPS_PROXY": "http://p:2",
    "NO_PROXY": NO_PROXY,
    **dict.fromkeys(("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE"), "/etc/multitask-ca/ca.crt"),
    "HF_ENDPOINT": "https://hub.corp",
}

# variable of the operator, the list of containers in the template, the container, the value that the template is in
PODS = [
    ("MULTITASK_STAGE_PODS", "containers", "trainer", "stagePods.podTemplate"),
    ("MULTITASK_SERVING_PODS", "initContainers", "fetch", "serving.podTemplate"),
]


def template(variable: str, *options: str) -> Map:
    given = {each["name"]: each["value"] for each in container(rendered(*options), OPERATOR)["env"]}
    found: Map = json.loads(given[variable])["podTemplate"]
    return found


@pytest.mark.parametrize(("variable", "containers", "name", "value"), PODS)
def test_pods_that_go_out_get_all_of_it(variable: str, containers: str, name: str, value: str) -> None:
    assert template(variable) == {}
    spec = template(variable, *ALL)["spec"]
    (only,) = spec[containers]
    assert only["name"] == name
    assert {each["name"]: each["value"] for each in only["env"]} == ENVIRONMENT
    (volume,), (mount,) = spec["volumes"], only["volumeMounts"]
    assert volume["configMap"] == {"name": "company-ca", "items": [{"key": "ca.crt", "path": "ca.crt"}]}
    assert (mount["name"], mount["mountPath"]) == (volume["name"], "/etc/multitask-ca")


@pytest.mark.parametrize(("variable", "containers", "name", "value"), PODS)
def test_what_the_template_says_stays(variable: str, containers: str, name: str, value: str) -> None:
    own: dict[str, Any] = {
        "metadata": {"labels": {"a": "b"}},
        "spec": {
            "priorityClassName": "batch",
            "volumes": [{"name": "v", "emptyDir": {}}],
            containers: [
                {"name": "side", "image": "s"},
                {
                    "name": name,
                    "env": [{"name": "HTTPS_PROXY", "value": "http://own"}],
                    "volumeMounts": [{"name": "v"}],
                },
            ],
        },
    }
    result = template(variable, "--set-json", f"{value}={json.dumps(own)}", *ALL)
    assert result["metadata"] == own["metadata"]
    assert result["spec"]["priorityClassName"] == "batch"
    assert [volume["name"] for volume in result["spec"]["volumes"]] == ["v", "multitask-ca"]
    side, changed = result["spec"][containers]
    assert side == {"name": "side", "image": "s"}
    assert {each["name"]: each["value"] for each in changed["env"]} == ENVIRONMENT | {"HTTPS_PROXY": "http://own"}
    assert len(changed["env"]) == len(ENVIRONMENT)
    assert template(variable, "--set-json", f"{value}={json.dumps(own)}") == own
