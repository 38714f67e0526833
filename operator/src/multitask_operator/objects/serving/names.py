"""Names, labels and metadata of the objects of a revision."""

from __future__ import annotations

from collections.abc import Mapping

from multitask_api.cluster import KIND_LABEL, MANAGED_BY, MANAGED_BY_LABEL, MODEL_LABEL
from multitask_api.serving_io.names import REVISION_LABEL, SERVING
from multitask_api.types import JsonDict
from multitask_operator.objects.names import Owner, labels, object_metadata, short

_MODEL = 30  # of its name, in the names below


def serving_name(model: str, revision: str) -> str:
    """``<model>-serve-<revision>``: the name of every object of a revision."""
    return f"{short(model, _MODEL)}-serve-{revision}"


def route_copy_name(model: str) -> str:
    """``<model>-serve-routes``: the ConfigMap with the copy of its TaskRoute."""
    return f"{short(model, _MODEL)}-serve-routes"


def revision_labels(model: str, revision: str) -> dict[str, str]:
    """On every object of a revision; its pods are selected by them."""
    return labels(model, SERVING) | {REVISION_LABEL: revision}


def servers_selector(model: str) -> str:
    """Selects the server pods of every revision of ``model``: what the scale subresource gives an autoscaler."""
    return f"{MANAGED_BY_LABEL}={MANAGED_BY},{MODEL_LABEL}={model},{KIND_LABEL}={SERVING}"


def revision_object(
    owner: Owner, api_version: str, kind: str, revision: str, annotations: Mapping[str, str] | None = None
) -> JsonDict:
    """apiVersion, kind and metadata of an object of ``revision`` that belongs to ``owner``."""
    name = serving_name(owner.name, revision)
    item = object_metadata(owner, api_version, kind, name, of=SERVING, annotations=annotations)
    item["metadata"]["labels"][REVISION_LABEL] = revision
    return item
