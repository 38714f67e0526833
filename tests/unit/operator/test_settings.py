"""Settings of the operator: arguments win over the environment, and an error names the variable."""

from __future__ import annotations

import pytest

from multitask_operator.settings import InvalidSetting, PodDefaults, Settings, described, read_settings

IMAGE = {"MULTITASK_TRAINER_IMAGE": "example.test/trainer:1"}


@pytest.mark.parametrize(
    ("arguments", "environ", "expected"),
    [
        pytest.param({}, {}, {}, id="defaults"),
        pytest.param({}, {"MULTITASK_WORKERS": "3"}, {"workers": 3}, id="a variable"),
        pytest.param({"workers": "4"}, {"MULTITASK_WORKERS": "3"}, {"workers": 4}, id="an argument wins"),
        pytest.param({"workers": None}, {"MULTITASK_WORKERS": " 3 "}, {"workers": 3}, id="spaces around a value"),
        pytest.param({}, {"MULTITASK_WORKERS": ""}, {}, id="an empty variable is none"),
        pytest.param({}, {"MULTITASK_NAMESPACES": "b, a,,a"}, {"namespaces": ("a", "b")}, id="namespaces"),
        pytest.param(
            {}, {"MULTITASK_SHORT_NAME_NAMESPACES": "b,a"}, {"short_name_namespaces": ("a", "b")}, id="short names"
        ),
        pytest.param({}, {"MULTITASK_IMAGE_PULL_POLICY": "Never"}, {"image_pull_policy": "Never"}, id="pull policy"),
        pytest.param({}, {"MULTITASK_GPU_RESOURCE": "amd.com/gpu"}, {"gpu_resource": "amd.com/gpu"}, id="gpu"),
        pytest.param({}, {"MULTITASK_HEALTH_PORT": "0"}, {"health_port": 0}, id="any free port"),
        pytest.param({}, {"MULTITASK_FIXED_USER": "false"}, {"fixed_user": False}, id="the platform's user"),
        pytest.param(
            {},
            {"MULTITASK_STAGE_PODS": '{"podTemplate": {"spec": {"priorityClassName": "batch"}}}'},
            {"stage_pods": PodDefaults({"spec": {"priorityClassName": "batch"}})},
            id="additions to stage pods",
        ),
    ],
)
def test_read(arguments: dict[str, str | None], environ: dict[str, str], expected: dict[str, object]) -> None:
    settings = read_settings(arguments, IMAGE | environ)
    assert settings == Settings(trainer_image="example.test/trainer:1", **expected)


@pytest.mark.parametrize(
    ("arguments", "environ", "message"),
    [
        pytest.param(
            {},
            {"MULTITASK_TRAINER_IMAGE": ""},
            "MULTITASK_TRAINER_IMAGE is not set: image of the stage pods",
            id="required",
        ),
        pytest.param(
            {},
            {"MULTITASK_WORKERS": "many"},
            "MULTITASK_WORKERS: 'many' is not a whole number from 1 to 256",
            id="words",
        ),
        pytest.param({"workers": "0"}, {}, "--workers: '0' is not a whole number from 1 to 256", id="the argument"),
        pytest.param(
            {},
            {"MULTITASK_WORKERS": "9" * 12},
            "MULTITASK_WORKERS: '999999999999' is not a whole number from 1 to 256",
            id="huge",
        ),
        pytest.param(
            {},
            {"MULTITASK_TRAINER_IMAGE": "a b"},
            "MULTITASK_TRAINER_IMAGE: 'a b' is no image name; write registry/repository:tag or"
            " registry/repository@sha256:…",
            id="image",
        ),
        pytest.param(
            {},
            {"MULTITASK_NAMESPACES": "ok,Not_OK"},
            "MULTITASK_NAMESPACES: 'ok,Not_OK' names 'Not_OK', which is no namespace; write names with commas"
            " between them",
            id="namespace",
        ),
        pytest.param(
            {},
            {"MULTITASK_IMAGE_PULL_POLICY": "always"},
            "MULTITASK_IMAGE_PULL_POLICY: 'always' is none of Always, IfNotPresent and Never",
            id="policy",
        ),
        pytest.param(
            {},
            {"MULTITASK_GPU_RESOURCE": "gpu"},
            "MULTITASK_GPU_RESOURCE: 'gpu' is no extended resource; write domain/name as in nvidia.com/gpu",
            id="gpu",
        ),
        pytest.param(
            {},
            {"MULTITASK_HEALTH_ADDRESS": "localhost"},
            "MULTITASK_HEALTH_ADDRESS: 'localhost' is no IP address, such as 127.0.0.1 or ::1",
            id="address",
        ),
        pytest.param(
            {"gateway_address": "gateway.example"},
            {},
            "--gateway-address: 'gateway.example' is not host:port",
            id="no port",
        ),
        pytest.param(
            {"workers": "x"},
            {"MULTITASK_RESYNC_SECONDS": "1"},
            "--workers: 'x' is not a whole number from 1 to 256\n"
            "MULTITASK_RESYNC_SECONDS: '1' is not a whole number from 10 to 86400",
            id="all at once",
        ),
    ],
)
def test_errors(arguments: dict[str, str | None], environ: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidSetting) as caught:
        read_settings(arguments, IMAGE | environ)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"template": {}}',
        '{"podTemplate": []}',
        '{"podTemplate": {"containers": []}}',
        '{"podTemplates": {"gpus": {}}}',
    ],
)
def test_malformed_additions_to_stage_pods_end_the_program(text: str) -> None:
    with pytest.raises(InvalidSetting, match=r"MULTITASK_STAGE_PODS: .* is no JSON object with podTemplate and"):
        read_settings({}, IMAGE | {"MULTITASK_STAGE_PODS": text})


def test_help_names_the_default_and_the_variable() -> None:
    texts = dict(described())
    assert texts["workers"] == "Resources that are reconciled at the same time. Default: 8. [MULTITASK_WORKERS]"
    assert texts["trainer_image"] == "Image of the stage pods. [MULTITASK_TRAINER_IMAGE]"
    assert "Default" not in texts["namespaces"]
