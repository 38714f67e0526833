"""The immutable ConfigMap of a revision: what it serves, and the pods that serve it."""

from __future__ import annotations

import json

from multitask_api.cluster import CONFIGMAP_LIMIT
from multitask_api.serving_io.names import IMAGE_ANNOTATION
from multitask_api.serving_io.revision import REVISION_KEY, Revision
from multitask_api.types import JsonDict, JsonObject
from multitask_operator.objects.errors import TooLarge
from multitask_operator.objects.names import Owner
from multitask_operator.objects.serving.names import revision_object

TEMPLATE_KEY = "template.json"
"""In ``data``: the pod template of the Deployment. The pods do not mount it."""


def revision_configmap(owner: Owner, revision: Revision, template: JsonObject, adopted: str | None) -> JsonDict:
    """``adopted``: the value of the annotation that asked for the image of the installed release. Raises `TooLarge`."""
    item = revision_object(owner, "v1", "ConfigMap", revision.revision, adoption(adopted))
    item["immutable"] = True
    item["data"] = {REVISION_KEY: _text(revision.to_json()), TEMPLATE_KEY: _text(template)}
    size = sum(len(text.encode()) for text in item["data"].values())
    if size > CONFIGMAP_LIMIT:
        raise TooLarge(
            f"spec.tasks: the record of a revision would have {size:,} bytes with {len(revision.tasks)} tasks, and a"
            f" ConfigMap has room for {CONFIGMAP_LIMIT:,}; shorten labels, or put tasks into a second MultiTaskModel"
        )
    return item


def adoption(adopted: str | None) -> dict[str, str]:
    """The annotation of ConfigMap and Deployment that keeps ``adopted``."""
    return {} if adopted is None else {IMAGE_ANNOTATION: adopted}


def _text(document: object) -> str:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))
