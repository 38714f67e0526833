"""What works, and is likely to disappoint: the condition ConfigurationWarning. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import chain

from multitask_api.resource import MultiTaskModelSpec
from multitask_api.types import JsonObject
from multitask_operator.objects.jobs import QUEUE_LABEL
from multitask_operator.objects.pod_layers import pod_layers
from multitask_operator.reconciler.conditions import ConditionValue
from multitask_operator.settings import Settings

#: Labels by which clouds and node feature discovery mark nodes with GPUs, besides those of the GPU resource's domain.
_GPU_LABELS = (
    "cloud.google.com/gke-accelerator",
    "k8s.amazonaws.com/accelerator",
    "karpenter.k8s.aws/instance-gpu",
    "kubernetes.azure.com/accelerator",
    "feature.node.kubernetes.io/pci-10de",
)

Advice = Callable[[MultiTaskModelSpec, Settings], Iterator[tuple[str, str]]]


def configuration_warning(spec: MultiTaskModelSpec, settings: Settings) -> ConditionValue | None:
    """The reason of the first warning, and the messages of all; None if there is nothing to warn of."""
    found = list(chain.from_iterable(check(spec, settings) for check in CHECKS))
    return ConditionValue("True", found[0][0], "; ".join(text for _, text in found)) if found else None


def not_scheduled_together(spec: MultiTaskModelSpec, settings: Settings) -> Iterator[tuple[str, str]]:
    """Nothing has the pods of a Job on several nodes start together."""
    training = spec.training
    labels = (layer.given.get("metadata") for layer in pod_layers(spec, "mixture", settings.stage_pods))
    has_queue = training.queue_name is not None or any(
        QUEUE_LABEL in _mapping(_mapping(each).get("labels")) for each in labels
    )
    if training.nodes > 1 and not has_queue and settings.gang_scheduling == "None":
        message = (
            f"training.nodes is {training.nodes}, and nothing schedules the pods of a Job together: some may hold GPUs"
            " while they wait for the others; set training.queueName, or gangScheduling of the installation"
        )
        yield "NoGangScheduling", message


def gpu_nodes_for_all_stages(spec: MultiTaskModelSpec, settings: Settings) -> Iterator[tuple[str, str]]:
    """The template of all pods selects nodes with GPUs."""
    pod = _mapping(spec.training.pod_template.get("spec"))
    domain = settings.gpu_resource.partition("/")[0]
    selected = [
        name
        for name in _mapping(pod.get("nodeSelector"))
        if name.startswith((f"{domain}/", f"{domain}.", *_GPU_LABELS))
    ]
    if selected and spec.training.gpus_per_node:
        message = (
            f"spec.training.podTemplate.spec.nodeSelector[{selected[0]}] puts the stages that use no GPU on nodes with"
            " GPUs, too; move it and the tolerations to spec.training.podTemplates.gpu"
        )
        yield "GpuNodesForAllStages", message


def claims_not_used(spec: MultiTaskModelSpec, _: Settings) -> Iterator[tuple[str, str]]:
    """Devices are claimed by a model that trains on the CPU."""
    claims = _mapping(spec.training.pod_template.get("spec")).get("resourceClaims")
    if claims and not spec.training.gpus_per_node:
        message = (
            "training.gpusPerNode is 0, so the resourceClaims of spec.training.podTemplate are not used; set it to the"
            " number of GPUs that they give, or remove them"
        )
        yield "DeviceClaimsNotUsed", message


CHECKS: tuple[Advice, ...] = (not_scheduled_together, gpu_nodes_for_all_stages, claims_not_used)


def _mapping(value: object) -> JsonObject:
    return value if isinstance(value, Mapping) else {}
