"""Short names that an older model has: the younger one says so, and is served all the same."""

from __future__ import annotations

import copy
import dataclasses

import pytest

from multitask_api.serving_io.task_names import NameClaim
from support.graph_builders import task
from support.simulated_servers import SERVING_SETTINGS, ServedCluster

OLDER, YOUNGER = "2020-01-01T00:00:00Z", "2040-01-01T00:00:00Z"
SERVED = {}


def served() -> ServedCluster:
    """``ml/desk`` with the tasks urgency and intent."""
    if not SERVED:
        SERVED["desk"] = ServedCluster(task("urgency"), task("intent"))
        SERVED["desk"].serve()
    return copy.deepcopy(SERVED["desk"])


def taken(cluster) -> str | None:
    """The message of the condition; None if there is no condition."""
    found = [each for each in cluster.model["status"]["conditions"] if each["type"] == "NameTaken"]
    assert all((each["status"], each["reason"]) == ("True", "NameTaken") for each in found)
    return found[0]["message"] if found else None


def other(model="team/inbox", tasks=("urgency",), created=OLDER, uid="u-other"):
    return NameClaim(*model.split("/"), tasks, created, uid)


# the sentence, the other tables, what the message says of names, their owners and what to call instead
TAKEN = [
    ("the name of a task", [other()], ["urgency (it is team/inbox/urgency)", "call desk/urgency instead"]),
    (
        "of two tasks, by two models",
        [other(), other("a/b", ("intent", "else"))],
        ["urgency (it is team/inbox/urgency)", "intent (it is a/b/intent)", "call desk/urgency and desk/intent"],
    ),
    (
        "also that with the model, which has the same name elsewhere",
        [other("team/desk", ("intent",))],
        ["desk/intent (it is team/desk/intent)", " intent (it is team/desk/intent)", "call ml/desk/intent instead"],
    ),
    (
        "by the oldest of three",
        [other(created=YOUNGER), other("a/b", created="2021-01-01T00:00:00Z"), other("c/d")],
        ["urgency (it is c/d/urgency)"],
    ),
]


@pytest.mark.parametrize(("others", "parts"), [row[1:] for row in TAKEN], ids=[row[0] for row in TAKEN])
def test_an_older_model_has(others, parts):
    cluster = served()
    before = cluster.condition("Ready")
    cluster.other_claims = tuple(others)
    cluster.serve()
    message = taken(cluster)
    assert message is not None
    assert [part for part in parts if part not in message] == []
    assert cluster.condition("Ready") == before
    assert "Stalled" not in [each["type"] for each in cluster.model["status"]["conditions"]]
    assert cluster.events.count(("Normal", "NameTaken")) == 1


# the sentence, the other tables, the namespaces that may have short names
FREE = [
    ("nobody else has such a task", [other(tasks=("other",))], ()),
    ("the other model is younger", [other(created=YOUNGER)], ()),
    ("the other model's namespace may have none", [other()], ("ml",)),
    ("our namespace may have none, which is no other model's doing", [other()], ("team",)),
]


@pytest.mark.parametrize(("others", "namespaces"), [row[1:] for row in FREE], ids=[row[0] for row in FREE])
def test_nothing_is_said_if(others, namespaces):
    cluster = served()
    cluster.settings = dataclasses.replace(SERVING_SETTINGS, short_name_namespaces=namespaces)
    cluster.other_claims = tuple(others)
    cluster.serve()
    assert taken(cluster) is None


@pytest.mark.parametrize(("uid", "is_taken"), [("u-0", True), ("u-zzz", False)])
def test_of_two_tables_of_one_second_the_uid_decides(uid, is_taken):
    cluster = served()
    created = cluster.route["metadata"]["creationTimestamp"]
    cluster.other_claims = (other(created=created, uid=uid),)
    cluster.serve()
    assert (taken(cluster) is not None) == is_taken


def test_the_condition_goes_with_its_cause():
    cluster = served()
    cluster.other_claims = (other(),)
    cluster.serve()
    assert taken(cluster) is not None
    cluster.other_claims = ()
    cluster.serve()
    assert taken(cluster) is None


def test_a_hundred_names_leave_room_for_what_to_do():
    names = tuple(f"task-{number:03}-{'x' * 50}" for number in range(100))
    cluster = ServedCluster(*(task(name) for name in names[:4]))
    cluster.serve()
    cluster.other_claims = (other(f"{'n' * 60}/{'m' * 60}", names),)
    cluster.serve()
    message = taken(cluster)
    assert message is not None
    assert message.endswith("instead, or rename the tasks.")
    assert len(message.encode()) <= 1024
