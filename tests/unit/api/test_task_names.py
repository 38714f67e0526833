"""Which task has which name."""

from __future__ import annotations

import itertools

import pytest

from multitask_api.serving_io.task_names import NameClaim, NameTaken, assign_names


def claim(model: str, *tasks: str, namespace: str = "team", created: str = "2026-01-01T00:00:00Z", uid: str = "0"):
    return NameClaim(namespace, model, tasks, created, uid)


DESK = claim("desk", "urgency", "intent", created="2026-01-02T00:00:00Z")
OLDER = claim("shop", "urgency", created="2026-01-01T23:59:59Z")
SAME_TIME = claim("shop", "urgency", created=DESK.created, uid="1")
OTHER_TEAM = claim("desk", "urgency", namespace="other", created="2026-01-03T00:00:00Z")


def names(*claims: NameClaim, **how) -> dict[str, list[str]]:
    """Full name → the short ones."""
    return {each.names[0]: list(each.names[1:]) for each in assign_names(claims, **how)}


# the sentence, the claims, the short names of each task
TABLE = [
    ("alone, a task has all of its names", [DESK],
     {"team/desk/urgency": ["desk/urgency", "urgency"], "team/desk/intent": ["desk/intent", "intent"]}),
    ("the older resource has the name", [DESK, OLDER],
     {"team/desk/urgency": ["desk/urgency"], "team/desk/intent": ["desk/intent", "intent"],
      "team/shop/urgency": ["shop/urgency", "urgency"]}),
    ("of two of the same second, the smaller UID", [DESK, SAME_TIME],
     {"team/desk/urgency": ["desk/urgency", "urgency"], "team/desk/intent": ["desk/intent", "intent"],
      "team/shop/urgency": ["shop/urgency"]}),
    ("models of one name in two namespaces", [DESK, OTHER_TEAM],
     {"team/desk/urgency": ["desk/urgency", "urgency"], "team/desk/intent": ["desk/intent", "intent"],
      "other/desk/urgency": []}),
]  # fmt: skip


@pytest.mark.parametrize(("claims", "expected"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_every_reader_gives_the_same_names_in_whatever_order_it_reads(claims, expected):
    for order in itertools.permutations(claims):
        assert names(*order) == expected


def test_what_is_taken_is_named_with_its_owner():
    taken = {each.names[0]: each.taken for each in assign_names([DESK, OTHER_TEAM])}
    assert taken["team/desk/urgency"] == ()
    assert taken["other/desk/urgency"] == (
        NameTaken("desk/urgency", "team/desk/urgency"),
        NameTaken("urgency", "team/desk/urgency"),
    )


def test_a_name_that_is_free_again_goes_to_the_next():
    assert names(OTHER_TEAM) == {"other/desk/urgency": ["desk/urgency", "urgency"]}


def test_a_second_resource_with_a_full_name_gets_nothing():
    first, second = assign_names([claim("desk", "urgency", uid="1"), claim("desk", "urgency", uid="2")])
    assert first.names == ("team/desk/urgency", "desk/urgency", "urgency")
    assert second.names == ()
    assert second.taken == (NameTaken("team/desk/urgency", "team/desk/urgency"),)


def test_a_namespace_may_be_kept_from_short_names_and_then_takes_none():
    untrusted = claim("desk", "urgency", namespace="sandbox", created="2020-01-01T00:00:00Z")
    found = assign_names([untrusted, DESK], may_be_short={"team"}.__contains__)
    assert found[0].names == ("sandbox/desk/urgency",)
    assert found[0].taken == (NameTaken("desk/urgency", ""), NameTaken("urgency", ""))
    assert names(untrusted, DESK, may_be_short={"team"}.__contains__)["team/desk/urgency"] == [
        "desk/urgency",
        "urgency",
    ]
