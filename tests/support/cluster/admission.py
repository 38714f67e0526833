"""Validation of an object by the API server and by Python's types, in one form."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx
import yaml

from multitask_api.errors import InvalidResource
from multitask_api.resource.parsing import check

Object = dict[str, Any]
CRDS = Path(__file__).parents[3] / "crds"
BASE = "/apis/multitask.dev/v1alpha1/namespaces"
PLURALS = {"MultiTaskModel": "multitaskmodels", "TaskRoute": "taskroutes"}
#: kubectl's own way to create: fields that the schema does not have are errors.
STRICT = {"fieldValidation": "Strict"}


def definition(kind: str) -> Object:
    """The CRD of a kind, as it stands in this checkout."""
    document: Object = yaml.safe_load((CRDS / f"multitask.dev_{PLURALS[kind]}.yaml").read_text("utf-8"))
    return document


def schema(kind: str) -> Object:
    """The schema of a kind."""
    openapi_schema: Object = definition(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return openapi_schema


def create(rest: httpx.Client, document: Object, namespace: str = "default", *, dry: bool = True) -> httpx.Response:
    """Create it; ``dry``: as far as admission goes, and nothing is stored."""
    path = f"{BASE}/{namespace}/{PLURALS[document['kind']]}"
    return rest.post(path, json=document, params=STRICT | ({"dryRun": "All"} if dry else {}))


def causes(answer: httpx.Response) -> list[tuple[str, str]]:
    """(field, message) of each reason for a refusal; empty when the object was accepted.

    AssertionError, with the answer, for a refusal that names no field.
    """
    if answer.is_success:
        return []
    assert answer.status_code == 422, answer.text
    fields_and_messages = [(cause.get("field", ""), cause["message"]) for cause in answer.json()["details"]["causes"]]
    # Beside a wrong type or a missing field: "some validation rules were not checked because the object was invalid".
    return [cause for cause in fields_and_messages if cause[0] != "<nil>"]


def python_problems(document: Object) -> list[tuple[str, str]]:
    """(path, message) of each problem that Python's types find in a MultiTaskModel."""
    try:
        check(document)
    except InvalidResource as error:
        return [(problem.path, problem.message) for problem in error.problems]
    return []


def pattern(field: str) -> str:
    """``spec.tasks[3].name`` as the schema's path, ``spec.tasks[].name``."""
    return re.sub(r"\[\d+\]", "[]", field)
