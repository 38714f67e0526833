"""Which revision answers a request, and which of its servers."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence

import pytest

from multitask_api.routes import Backend, RoutedTask
from multitask_serving.gateway.choice import Preference, Server, choose
from multitask_serving.gateway.errors import NoBackend, RevisionNotFound
from multitask_serving.gateway.routes import Route

ANY = Preference()


def route(weights: Mapping[str, int]) -> Route:
    backends = tuple(
        Backend(service=f"desk-{name}", port=8001, weight=weight, revision=name) for name, weight in weights.items()
    )
    task = RoutedTask(name="urgency", type="Classification", fields=("text",), labels=("a", "b"), backends=backends)
    return Route("team/desk/urgency", "urgency", task)


def chosen(
    weights: Mapping[str, int],
    draw: float = 0.0,
    *,
    preference: Preference = ANY,
    tried: Sequence[str] = (),
    servers: Mapping[str, Sequence[Server]] | None = None,
) -> str:
    """The address. Without ``servers``, every revision has one server of its own name."""
    known = {name: [Server(name)] for name in weights} if servers is None else servers
    return choose(route(weights), lambda each: known.get(each.revision, ()), lambda: draw, preference, tried)[1]


@pytest.mark.parametrize(("draw", "revision"), [(0.0, "old"), (0.2999, "old"), (0.3, "new"), (0.9999999, "new")])
def test_weights_share_the_unit_interval(draw: float, revision: str):
    assert chosen({"old": 30, "new": 70, "next": 0}, draw) == revision


def test_shares_are_the_weights():
    counts = Counter(chosen({"a": 10, "b": 65, "c": 25}, (n + 0.5) / 1000) for n in range(1000))
    assert counts == {"a": 100, "b": 650, "c": 250}


A, B = [Server("a")], [Server("b")]
BUSY, IDLE = Server("busy", 5), Server("idle", 0)
DEAD = Server("dead", 0, suspect=True)

# the sentence, weights, servers by revision, draw, what is chosen
AVAILABLE = [
    ("a revision without servers gets no share", {"old": 90, "new": 10}, {"old": A}, 0.99, "a"),
    ("nor does the old one once its servers are gone", {"old": 90, "new": 10}, {"new": B}, 0.0, "b"),
    ("what is not rolled out gets nothing, servers or not", {"old": 100, "next": 0}, {"old": A, "next": B}, 0.99, "a"),
    ("of two servers the less busy one", {"old": 100}, {"old": [BUSY, IDLE]}, 0.0, "idle"),
    ("in whatever order", {"old": 100}, {"old": [IDLE, BUSY]}, 0.99, "idle"),
    ("a suspect server looks idle and is not asked", {"old": 100}, {"old": [DEAD, BUSY]}, 0.0, "busy"),
    ("nor if another revision has to answer", {"old": 50, "new": 50}, {"old": [DEAD], "new": [BUSY]}, 0.0, "busy"),
    ("unless there is no other", {"old": 50, "new": 50}, {"old": [DEAD]}, 0.9, "dead"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("weights", "servers", "draw", "address"), [row[1:] for row in AVAILABLE], ids=[row[0] for row in AVAILABLE]
)
def test_only_servers_that_can_answer_are_asked(weights, servers, draw, address):
    assert chosen(weights, draw, servers=servers) == address


def test_two_random_servers_spread_the_load_without_a_herd():
    draw = random.Random(7).random
    load: Counter[str] = Counter()
    names = [f"10.0.0.{n}:8001" for n in range(10)]
    for _ in range(1000):
        known = [Server(name, load[name]) for name in names]
        load[choose(route({"r": 100}), lambda _: known, draw, ANY)[1]] += 1  # noqa: B023
    assert max(load.values()) - min(load.values()) <= 6
    first = Counter(choose(route({"r": 100}), lambda _: [Server(n) for n in names], draw, ANY)[1] for _ in range(50))
    assert len(first) > 5


def test_a_pinned_revision_is_chosen_even_at_weight_0():
    assert chosen({"old": 100, "next": 0}, 0.99, preference=Preference(revision="next")) == "next"


def test_an_unknown_revision_is_an_error_that_names_the_known_ones():
    with pytest.raises(RevisionNotFound, match="'gone' does not serve task 'urgency'; revisions that do: new, old"):
        chosen({"old": 50, "new": 50}, preference=Preference(revision="gone"))


NOTHING_LEFT = [
    ("every server was tried", {"old": 50, "new": 50, "next": 0}, ANY, ["old", "new"]),
    ("the pinned revision's was", {"old": 100, "next": 0}, Preference(revision="next"), ["next"]),
]


@pytest.mark.parametrize(
    ("weights", "preference", "tried"), [row[1:] for row in NOTHING_LEFT], ids=[row[0] for row in NOTHING_LEFT]
)
def test_a_server_is_not_asked_twice(weights, preference, tried):
    with pytest.raises(NoBackend):
        chosen(weights, preference=preference, tried=tried)
    assert chosen(weights, 0.99, preference=ANY, tried=tried[1:]) in weights


def owners(weights: Mapping[str, int], **how) -> dict[str, str]:
    return {key: chosen(weights, preference=Preference(key=key), **how) for key in (f"user-{n}" for n in range(4000))}


def test_keys_are_shared_by_weight():
    counts = Counter(owners({"old": 75, "new": 20, "other": 5}).values())
    for name, share in {"old": 0.75, "new": 0.2, "other": 0.05}.items():
        assert counts[name] / 4000 == pytest.approx(share, abs=0.02)


def test_a_key_keeps_its_revision_while_a_rollout_goes_on():
    steps = [{"old": 90, "new": 10}, {"old": 50, "new": 50}, {"old": 0, "new": 100}]
    before = owners(steps[0])
    for weights in steps[1:]:
        after = owners(weights)
        assert {key for key in before if before[key] == "new"} <= {key for key in after if after[key] == "new"}
        before = after


def test_a_key_moves_only_if_its_own_revision_has_no_servers():
    weights = {"a": 40, "b": 40, "c": 20}
    before = owners(weights)
    after = owners(weights, servers={"a": [Server("a")], "b": [Server("b")]})
    assert {key: name for key, name in before.items() if name != "c"}.items() <= after.items()
