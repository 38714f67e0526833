"""Every bound of the schemas, on the API server: a value just outside is refused, with the server's words for it."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import httpx
import pytest

from support.cluster import admission, resources
from support.cluster.schemas import InvalidValue, edit, invalid_values, nodes

Object = dict[str, Any]
FULL = {
    "MultiTaskModel": resources.full_model(),
    "TaskRoute": resources.route() | {"status": resources.route_status()},
}
ROWS = {kind: list(invalid_values(admission.schema(kind), FULL[kind])) for kind in FULL}
SPEC = [(kind, row) for kind, rows in ROWS.items() for row in rows if not row.path.startswith("status")]
STATUS = [row for row in ROWS["MultiTaskModel"] if row.path.startswith("status")]


def assert_refused(causes: list[tuple[str, str]], row: InvalidValue) -> None:
    """The bound speaks, and beside it at most what it breaks at the same place or around it, or what /scale reads.

    A list of too many of a few allowed values has some of them twice.
    """
    assert (row.field, row.message) in causes
    others = [field for field, message in causes if not field.startswith(".") and "accessor error" not in message]
    inside = f"{row.field}[" if row.keyword == "maxItems" else row.field
    assert all(row.field.startswith(field) or field.startswith(inside) for field in others), causes


@pytest.mark.parametrize("kind", FULL)
def test_what_says_everything_is_accepted(rest: httpx.Client, kind: str) -> None:
    assert admission.causes(admission.create(rest, FULL[kind])) == []


@pytest.mark.parametrize("kind", FULL)
def test_every_bound_has_a_row(kind: str) -> None:
    """A bound that the rows do not know would go untested."""
    known = {
        "type", "enum", "pattern", "minLength", "maxLength", "minItems", "maxItems", "minimum", "maximum", "required",
    }  # fmt: skip
    no_bounds = {
        "description", "default", "properties", "items", "exclusiveMinimum", "exclusiveMaximum",
        "x-kubernetes-validations", "x-kubernetes-list-type", "x-kubernetes-list-map-keys",
        "x-kubernetes-preserve-unknown-fields", "x-kubernetes-int-or-string",
    }  # fmt: skip
    keywords = {keyword for _, node in nodes(admission.schema(kind)) for keyword in node}
    assert keywords <= known | no_bounds


@pytest.mark.parametrize(("kind", "row"), SPEC, ids=str)
def test_a_bound_of_the_spec(rest: httpx.Client, kind: str, row: InvalidValue) -> None:
    document = edit(FULL[kind], {row.field: row.value})
    assert_refused(admission.causes(admission.create(rest, document)), row)
    # A file needs no storage: a run on one machine has its work folder.
    if kind == "MultiTaskModel" and (row.path, row.keyword) != ("spec.storage", "required"):
        assert admission.python_problems(document)


@pytest.mark.parametrize("row", STATUS, ids=str)
def test_a_bound_of_the_status(rest: httpx.Client, stored: Object, row: InvalidValue) -> None:
    document = edit(stored | {"status": resources.full_status()}, {row.field: row.value})
    meta = stored["metadata"]
    path = f"{admission.BASE}/{meta['namespace']}/multitaskmodels/{meta['name']}/status"
    answer = rest.put(path, json=document, params=admission.STRICT | {"dryRun": "All"})
    # Here the server counts from the status on.
    assert_refused(
        admission.causes(answer), replace(row, message=re.sub(r"status\.?(\S*) in body", r"\1 in body", row.message))
    )


@pytest.fixture(scope="module")
def stored(rest: httpx.Client) -> Object:
    """A model that exists: only its status can be written through the status subresource."""
    document = resources.model("bounds")
    answer = admission.create(rest, document, dry=False)
    assert answer.is_success or answer.status_code == 409, answer.text
    bounds_model: Object = rest.get(f"{admission.BASE}/default/multitaskmodels/bounds").json()
    return bounds_model
