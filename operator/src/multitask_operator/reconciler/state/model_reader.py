"""From the custom resource to the checked model, with the prompts and labels that ConfigMaps hold filled in. Pure."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from multitask_api.errors import InvalidResource, Problem
from multitask_api.resource import MultiTaskModel
from multitask_api.resource.parsing import check
from multitask_api.types import JsonObject
from multitask_operator.reconciler.state.cluster_state import ClusterState


def read_model(cluster: ClusterState) -> MultiTaskModel:
    """The model as stages see it: ``promptFrom`` and ``labelsFrom`` are replaced by what they name.

    Raises InvalidResource with all problems: what CEL cannot say at admission, and ConfigMaps or keys that are missing.
    """
    resource = cluster.model
    document: dict[str, Any] = {
        "apiVersion": resource["apiVersion"],
        "kind": resource["kind"],
        "metadata": {"name": cluster.name, "namespace": cluster.namespace},
        "spec": copy.deepcopy(dict(resource.get("spec") or {})),
    }
    problems = list(_fill_in(document["spec"].get("tasks") or [], cluster.referenced_configmaps))
    if problems:
        raise InvalidResource(problems)
    return check(document)


def _fill_in(tasks: list[dict[str, Any]], references: Mapping[str, JsonObject | None]) -> Iterator[Problem]:
    for index, task in enumerate(tasks):
        for field, source in (("prompt", "promptFrom"), ("labels", "labelsFrom")):
            reference = task.pop(source, None)
            if reference is None:
                continue
            place = f"spec.tasks[{index}].{source}"
            configmap = references.get(reference["name"])
            data = (configmap or {}).get("data") or {}
            if configmap is None:
                yield Problem(place, f"there is no ConfigMap {reference['name']!r} in this namespace; create it")
            elif reference["key"] not in data:
                known = ", ".join(sorted(data)) or "none"
                yield Problem(place, f"ConfigMap {reference['name']!r} has no key {reference['key']!r} (keys: {known})")
            else:
                text: str = data[reference["key"]]
                task[field] = text if field == "prompt" else [line for line in text.splitlines() if line.strip()]
