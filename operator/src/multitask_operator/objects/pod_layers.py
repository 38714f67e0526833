"""The additions to the pods of one kind of stage: whose they are, and the order in which they are applied. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from multitask_api.resource import MultiTaskModelSpec
from multitask_api.resource.pod_templates import PodTemplates
from multitask_api.types import JsonDict, JsonObject
from multitask_operator.objects.resources import SMALL_KINDS, container_resources, gpus, quantity, template_kind
from multitask_operator.objects.user_pod_template import CONTAINER
from multitask_operator.settings import PodDefaults

#: The kinds of stages whose pods can have additions of their own, those that cost most first.
STAGE_KINDS = (
    "mixture",
    "baseline",
    "high-resource",
    "check",
    "gradients",
    "evaluate",
    "export",
    "base",
    "bundle",
    "filter",
    "affinity",
    "prepare",
    "clean-up",
)
PLACE = "spec.training"
INSTALLATION = "the installation's stagePods"


@dataclass(frozen=True)
class Layer:
    """A pod template that is merged into a pod, and where it was written."""

    place: str
    given: JsonObject
    within: str = ""
    """The path in ``given`` of what was written at ``place``; empty: all of it."""


def pod_layers(spec: MultiTaskModelSpec, kind: str, defaults: PodDefaults) -> tuple[Layer, ...]:
    """The layers of a pod of ``kind`` that are not empty, the first to be applied first.

    The installation's come before the model's; of each, that of all pods, then of those with or without a GPU, then of
    the kind of stage.
    """
    training = spec.training
    return tuple(
        layer
        for place, common, templates in (
            (INSTALLATION, defaults.pod_template, defaults.pod_templates),
            (PLACE, training.pod_template, training.pod_templates or PodTemplates()),
        )
        for layer in _of_one_owner(place, common, templates, kind, has_gpu=gpus(spec, kind) > 0)
        if layer.given
    )


def user_layers(spec: MultiTaskModelSpec, kind: str, defaults: PodDefaults) -> tuple[Layer, ...]:
    """Everything that a pod of ``kind`` has from people: ``spec.training.resources``, then the `pod_layers`."""
    container = {"name": CONTAINER, "resources": spec.training.resources}
    given = {} if kind in SMALL_KINDS or not spec.training.resources else {"spec": {"containers": [container]}}
    resources = Layer(f"{PLACE}.resources", given, within=".spec.containers[0].resources")
    return (resources, *pod_layers(spec, kind, defaults))


def threads(spec: MultiTaskModelSpec, kind: str) -> int:
    """Threads of a stage's process: the whole CPUs it may use (limit, else request), shared by the pod's processes."""
    if kind in SMALL_KINDS:
        return 1
    resources = container_resources(spec, kind, gpu_resource="")
    given = [resources, *(_trainer_resources(layer) for layer in pod_layers(spec, kind, PodDefaults()))]
    for part in ("limits", "requests"):
        for amounts in reversed([each.get(part) or {} for each in given]):
            if "cpu" in amounts:
                cpus = quantity(amounts["cpu"], f"{PLACE}: {part}.cpu of container {CONTAINER}")
                return max(1, int(cpus / max(1, gpus(spec, kind))))
    return 1


def _of_one_owner(
    place: str, common: JsonObject, templates: PodTemplates, kind: str, *, has_gpu: bool
) -> Iterator[Layer]:
    yield Layer(f"{place}.podTemplate", common if has_gpu else without_device_claims(common))
    yield Layer(f"{place}.podTemplates.{'gpu' if has_gpu else 'cpu'}", templates.gpu if has_gpu else templates.cpu)
    kind = template_kind(kind)
    field_name = kind.replace("-", "_")
    if field_name in PodTemplates.model_fields:
        alias = PodTemplates.model_fields[field_name].alias or field_name
        yield Layer(f"{place}.podTemplates.{alias}", templates.of_kind(kind))


def without_device_claims(given: JsonObject) -> JsonObject:
    """The template for a pod without a GPU: a claim that all pods share would reserve devices for it, too."""
    spec = given.get("spec")
    if not isinstance(spec, Mapping) or "resourceClaims" not in spec:
        return given
    pod: JsonDict = {name: value for name, value in spec.items() if name != "resourceClaims"}
    for group in ("containers", "initContainers"):
        if isinstance(pod.get(group), list | tuple):
            pod[group] = [_without_claims(container) for container in pod[group]]
    return {**given, "spec": pod}


def _without_claims(container: object) -> object:
    if not isinstance(container, Mapping) or not isinstance(container.get("resources"), Mapping):
        return container
    return {**container, "resources": {k: v for k, v in container["resources"].items() if k != "claims"}}


def _trainer_resources(layer: Layer) -> JsonObject:
    """What a layer gives the trainer; empty also for a malformed layer, which is rejected when it is merged."""
    spec = layer.given.get("spec")
    containers = spec.get("containers") if isinstance(spec, Mapping) else None
    for container in containers if isinstance(containers, list | tuple) else ():
        if isinstance(container, Mapping) and container.get("name") == CONTAINER:
            resources = container.get("resources")
            parts = resources.items() if isinstance(resources, Mapping) else ()
            return {name: amounts for name, amounts in parts if isinstance(amounts, Mapping)}
    return {}
