"""What the API server answers, as the operator's errors; and what becomes of a status in a merge patch."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multitask_api.errors import RetryableError
from multitask_kubernetes.errors import (
    AlreadyExists,
    ClusterError,
    Conflict,
    Forbidden,
    NotFound,
    Request,
    RequestRejected,
    Unavailable,
    error_for,
)
from multitask_operator.cluster.apply import merge_patch

CREATE = Request("create", "jobs.batch", "team-a", "desk-resolve")


def status(reason: str, message: str) -> str:
    return json.dumps({"kind": "Status", "reason": reason, "message": message})


@pytest.mark.parametrize(
    ("code", "body", "kind", "retryable", "message"),
    [
        pytest.param(
            409, status("AlreadyExists", "is there"), AlreadyExists, True, "is there", id="there is one of that name"
        ),
        pytest.param(409, status("Conflict", "has been modified"), Conflict, True, "has been modified", id="stale"),
        pytest.param(404, status("NotFound", "not found"), NotFound, False, "not found", id="gone"),
        pytest.param(404, "404 page not found\n", NotFound, False, "404 page not found", id="no such kind"),
        pytest.param(
            403, status("Forbidden", "exceeded quota"), Forbidden, False, "exceeded quota", id="quota or permission"
        ),
        pytest.param(422, status("Invalid", "spec: bad"), RequestRejected, False, "spec: bad", id="invalid"),
        pytest.param(413, "", RequestRejected, False, "HTTP 413", id="too large, without a word"),
        pytest.param(429, status("TooManyRequests", "later"), Unavailable, True, "later", id="overloaded"),
        pytest.param(500, status("InternalError", "etcd"), Unavailable, True, "etcd", id="a fault of the server"),
        pytest.param(503, "<html>" + "x" * 1000, Unavailable, True, "<html>xxx", id="something in between"),
        pytest.param(401, status("Unauthorized", "Unauthorized"), Unavailable, True, "credentials", id="credentials"),
    ],
)
def test_an_answer_becomes_an_error_that_says_what_was_asked(
    code: int, body: str, kind: type[ClusterError], *, retryable: bool, message: str
) -> None:
    error = error_for(CREATE, code, body)
    assert type(error) is kind
    assert isinstance(error, RetryableError) is retryable
    assert str(error).startswith('create jobs.batch "desk-resolve" in namespace "team-a": ')
    assert message in str(error)
    assert len(str(error)) < 500


@pytest.mark.parametrize(
    ("before", "after", "patch"),
    [
        pytest.param({}, {}, {}, id="nothing to nothing"),
        pytest.param({}, {"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"c": 2}}, id="all is new"),
        pytest.param({"a": 1}, {"a": 1}, {}, id="nothing changed"),
        pytest.param({"a": 1, "b": 2}, {"b": 2}, {"a": None}, id="a field is gone"),
        pytest.param({"a": {"b": 1, "c": 2}}, {"a": {"b": 1}}, {"a": {"c": None}}, id="gone inside"),
        pytest.param({"a": {"b": 1}}, {"a": {"b": 1}}, {}, id="nothing changed inside"),
        pytest.param({"a": {"b": 1}}, {"a": 2}, {"a": 2}, id="another type"),
        pytest.param({"a": [{"b": 1}]}, {"a": [{"c": 1}]}, {"a": [{"c": 1}]}, id="lists are replaced whole"),
    ],
)
def test_merge_patch(before: dict[str, Any], after: dict[str, Any], patch: dict[str, Any]) -> None:
    assert merge_patch(before, after) == patch


def merged(value: Any, patch: Any) -> Any:
    """RFC 7386, section 2."""
    if not isinstance(patch, dict):
        return patch
    result = dict(value) if isinstance(value, dict) else {}
    for key, each in patch.items():
        if each is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), each)
    return result


LEAVES = st.one_of(st.integers(0, 2), st.lists(st.integers(0, 1), max_size=2))
MAPS = st.dictionaries(
    st.sampled_from("abc"),
    st.recursive(LEAVES, lambda inner: st.dictionaries(st.sampled_from("ab"), inner, max_size=2), max_leaves=5),
    max_size=3,
)


@given(MAPS, MAPS)
def test_the_patch_makes_after_of_before(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert merged(before, merge_patch(before, after)) == after
