"""Which tasks a grant covers."""

from __future__ import annotations

import pytest

from multitask_serving.gateway.access.grants import Caller, grant_error

TASK = "team-a/support-desk/urgency"

# sentence, grant, task, whether it is covered
COVERS = [
    ("a namespace is all its models", "team-a", TASK, True),
    ("a namespace is not one that begins like it", "team", TASK, False),
    ("a namespace is not one that it begins like", "team-a", "team-ab/m/t", False),
    ("a model is all its tasks", "team-a/support-desk", TASK, True),
    ("a model of another namespace", "team-b/support-desk", TASK, False),
    ("a model that begins like it", "team-a/support", TASK, False),
    ("one task", "team-a/support-desk/urgency", TASK, True),
    ("another task", "team-a/support-desk/stance", TASK, False),
    ("everything", "*", TASK, True),
    ("everything, at length", "*/*/*", TASK, True),
    ("a task in every model", "*/*/urgency", TASK, True),
    ("models by their beginning", "team-a/support-*", TASK, True),
    ("a star within a name", "team-a/s*desk/urg*y", TASK, True),
    ("a star does not go beyond its part", "team-a*urgency", TASK, False),
    ("a dot is a dot", "team.a", "teamxa/m/t", False),
    ("a short name is no full name", "*", "urgency", False),
    ("nor is a longer one", "*", "team-a/support-desk/urgency/x", False),
    ("upper case is another name", "team-a", "Team-A/m/t", False),
]


@pytest.mark.parametrize(("grant", "task", "covered"), [row[1:] for row in COVERS], ids=[row[0] for row in COVERS])
def test_a_grant_covers(grant: str, task: str, covered: bool) -> None:
    assert grant_error(grant) is None
    assert Caller("c", (grant,)).may_call(task) is covered
    assert Caller("c", ("nobody/nothing", grant)).may_call(task) is covered


@pytest.mark.parametrize(
    "grant", ["", "/", "team-a/", "a/b/c/d", "a//c", "Team", "a b", "team-a/[ab]", "a/?", "*/*/*/*"]
)
def test_what_is_no_grant_is_an_error_that_shows_the_form(grant: str) -> None:
    assert "NAMESPACE/MODEL/TASK" in (grant_error(grant) or "")


def test_without_grants_nothing_is_allowed() -> None:
    assert not Caller("c").may_call(TASK)
    assert not Caller("c").may_call_everything


@pytest.mark.parametrize(
    ("grant", "everything"), [("*", True), ("*/*", True), ("*/*/*", True), ("*/*/a*", False), ("a", False)]
)
def test_everything(grant: str, everything: bool) -> None:
    assert Caller("c", (grant,)).may_call_everything is everything
