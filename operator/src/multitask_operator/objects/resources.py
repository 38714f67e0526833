"""CPU, memory and GPUs of a stage's pod, from ``spec.training``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from copy import deepcopy
from decimal import Decimal
from typing import Any

from pydantic.alias_generators import to_camel

from multitask_api.cluster import CLEAN_UP, GC, RESOLVE, TRAINING_KINDS
from multitask_api.resource import MultiTaskModelSpec
from multitask_api.types import JsonDict, JsonObject
from multitask_operator.objects.errors import ResourcesError

PLACE = "spec.training.resources"

SMALL_KINDS = frozenset({RESOLVE, CLEAN_UP, GC, "prepare", "filter", "affinity"})
"""These read data and tables and load no model: small requests, so that they start anywhere."""
ONE_NODE_KINDS = frozenset({"evaluate"})
"""These run an engine on each GPU of one node."""
ONE_GPU_KINDS = frozenset({"export", "gradients", "check"})
"""These run one engine, or short passes over one model, on one device."""

#: Where the spec gives none. A process with torch loaded takes 0.7 GiB (measured) before any model.
_REQUESTS = {"cpu": "1", "memory": "1Gi"}
#: Rows of 112 MB take 0.3 GiB (measured): with these limits a task may have a gigabyte of data. A quota on limits asks
#: for some.
_SMALL: JsonDict = {"requests": {"cpu": "250m", "memory": "512Mi"}, "limits": {"cpu": "2", "memory": "4Gi"}}
#: What a stage without a GPU takes of resources that are meant for nodes with GPUs.
_WITHOUT_GPU = ("cpu", "memory", "ephemeral-storage")
_QUANTITY = re.compile(r"([+-]?(?:\d+(?:\.\d*)?|\.\d+))([numkMGTPE]|[KMGTPE]i|[eE][+-]?\d+)?")
_FACTORS = {"": 0, "n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}


def container_resources(spec: MultiTaskModelSpec, kind: str, gpu_resource: str) -> JsonDict:
    """``resources`` of the container of a stage of ``kind``, without its GPUs. `ResourcesError` for malformed ones."""
    given = _checked(spec)
    for name in ("limits", "requests"):
        if gpu_resource in given.get(name, {}):
            raise ResourcesError(f"{PLACE}.{name}.{gpu_resource}: remove it; spec.training.gpusPerNode sets the GPUs")
    if kind in SMALL_KINDS:
        return deepcopy(_SMALL)
    if spec.training.gpus_per_node and not gpus(spec, kind):
        return _beside_gpus(given)
    limits = dict(given.get("limits", {}))
    # With a limit, the request defaults to it: ours must not override that.
    requests = {name: value for name, value in _REQUESTS.items() if name not in limits} | given.get("requests", {})
    resources = {"requests": requests, "limits": limits}
    return {name: amounts for name, amounts in resources.items() if amounts} | {
        name: value for name, value in given.items() if name == "claims" and spec.training.gpus_per_node
    }


def resources_setting(kind: str) -> str:
    """The field of the resource that sets the resources of a stage's container, for a message."""
    return (
        _own_setting(kind) if kind in SMALL_KINDS else f"{PLACE}, or of {_own_setting(kind)} if a podTemplate has any"
    )


def memory_setting(kind: str) -> str:
    """The field that sets its memory limit."""
    own = f"limits.memory in {_own_setting(kind)}"
    return own if kind in SMALL_KINDS else f"{PLACE}.limits.memory (or {own}, if a podTemplate sets it)"


def template_kind(kind: str) -> str:
    """The kind whose additions in ``podTemplates`` the pods of ``kind`` have: those of `GC` are those of `CLEAN_UP`."""
    return CLEAN_UP if kind == GC else kind


def _own_setting(kind: str) -> str:
    """Where what is set always has an effect: it is merged last."""
    return f"spec.training.podTemplates.{to_camel(template_kind(kind).replace('-', '_'))}, container trainer"


def _beside_gpus(given: JsonObject) -> JsonDict:
    """Of a stage without a GPU in a model with GPUs. Its memory follows from the model, too, but it needs one CPU and
    none of the other resources of a node with GPUs."""
    limits = {name: value for name, value in given.get("limits", {}).items() if name in _WITHOUT_GPU}
    requests = {name: value for name, value in given.get("requests", {}).items() if name in _WITHOUT_GPU}
    if "memory" not in limits:
        requests.setdefault("memory", _REQUESTS["memory"])
    cpus = [amount for amount in (_REQUESTS["cpu"], limits.get("cpu")) if amount is not None]
    requests["cpu"] = min(cpus, key=lambda amount: quantity(amount, f"{PLACE}.limits.cpu"))
    return {"requests": requests, "limits": limits} if limits else {"requests": requests}


def gpus(spec: MultiTaskModelSpec, kind: str) -> int:
    """GPUs of one pod of ``kind``."""
    if trains(spec, kind) or kind in ONE_NODE_KINDS:
        return spec.training.gpus_per_node
    return min(1, spec.training.gpus_per_node) if kind in ONE_GPU_KINDS else 0


def pods_per_job(spec: MultiTaskModelSpec, kind: str) -> int:
    """Pods of one Job of ``kind``: they train one stage together, one on each node."""
    return spec.training.nodes if trains(spec, kind) else 1


def trains(spec: MultiTaskModelSpec, kind: str) -> bool:
    """Whether a stage of ``kind`` trains; the base only does with pretraining, else it is merely fetched."""
    return kind in TRAINING_KINDS and (kind != "base" or spec.pretraining is not None)


def quantity(value: Any, place: str) -> Decimal:
    """A Kubernetes quantity (``500m``, ``2``, ``64Gi``) as a number. Raises `ResourcesError` naming ``place``."""
    match = _QUANTITY.fullmatch(str(value)) if isinstance(value, str | int | float) else None
    if match is None or isinstance(value, bool):
        raise ResourcesError(f"{place}: {value!r} is not a quantity; write one as in 500m, 2 or 64Gi")
    number, unit = Decimal(match[1]), match[2] or ""
    if number < 0:
        raise ResourcesError(f"{place}: {value!r} is below zero")
    if unit.endswith("i"):
        return number * Decimal(1024) ** ("KMGTPE".index(unit[0]) + 1)
    return number.scaleb(_FACTORS[unit] if unit in _FACTORS else int(unit[1:]))


def _checked(spec: MultiTaskModelSpec) -> JsonDict:
    """``spec.training.resources``, checked."""
    return resource_amounts(spec.training.resources, PLACE)


def resource_amounts(given: JsonDict, place: str) -> JsonDict:
    """``given``, the resources of a container, with a mapping of quantities in each of limits and requests that it has.

    Raises `ResourcesError` naming ``place``.
    """
    for name, amounts in given.items():
        if name not in ("limits", "requests", "claims"):
            raise ResourcesError(f"{place}.{name}: not known; use requests, limits or claims")
        if name == "claims":
            continue
        if not isinstance(amounts, Mapping):
            raise ResourcesError(f"{place}.{name}: expected a mapping of resource to quantity, got {amounts!r}")
        for resource, value in amounts.items():
            quantity(value, f"{place}.{name}.{resource}")
    return given
