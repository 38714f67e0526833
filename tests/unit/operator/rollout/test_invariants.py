"""Whatever happens in whatever order: what must always hold, and that everything settles."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from multitask_api.bundle import BASELINE
from multitask_api.resource.serving import Serving
from multitask_api.routes import RolloutState
from multitask_operator.rollout import advance
from multitask_operator.rollout.orders import rollback_to
from multitask_operator.rollout.share import share_of
from support.rollout_world import World, agreement, task

TASKS = ("urgency", "stance")
NAMES = ("one", "two", "three", "four")

#: What may happen, each with what it is about.
happenings = st.one_of(
    st.tuples(st.just("train"), st.sampled_from(["same", "added", "removed", "changed", "baseline"])),
    st.tuples(st.just("good"), st.integers(1, 200)),
    st.tuples(st.just("bad"), st.sampled_from(TASKS)),
    st.tuples(st.just("ready"), st.sampled_from(NAMES), st.integers(0, 2)),
    st.tuples(st.just("wait"), st.sampled_from([1, 30, 61, 600, 3600])),
    st.tuples(st.just("order"), st.sampled_from(["pause", "resume", "promote", "abort", "retry"])),
    st.tuples(st.just("rollback"), st.sampled_from([*NAMES, ""])),
    st.tuples(st.just("gateway"), st.sampled_from(["dead", "alive", "restart", "new"])),
    st.tuples(st.just("golden"), st.sampled_from([*TASKS, ""])),
    st.tuples(st.just("delete"), st.sampled_from(NAMES)),
    st.tuples(st.just("route"), st.sampled_from(["delete", "wipe status"])),
)


class Checked(World):
    """A world that looks at every single write, and forgets nothing."""

    def __init__(self, **fields):
        super().__init__(**fields)
        self.rejected = set()
        self.served = set()
        self.tried = set()
        self.last = {}

    def order(self, action, revision=None):
        super().order(action, revision)
        if action == "retry":
            named = self.annotations["multitask.dev/retry"].split()[0]
            self.rejected = {item for item in self.rejected if item[0] != named}

    def step(self) -> bool:
        seen = self.observe()
        assert advance(seen) == advance(seen)
        changed = super().step()
        if self.route is not None:
            self._check(seen, self.last)
            self.rejected |= {(item.revision, item.task) for item in self.status.rejected}
            self.last, state = self.weights, self.status.rollout
            for name, weights in self.last.items():
                (revision, weight), *_ = [*weights.items(), ("", 0)]
                if weight == 100 and state is not None and (state.finished or state.revision != revision):
                    self.served.add((revision, name))
                self.tried |= {(each, name) for each, weight in weights.items() if weight}
        return changed

    def _check(self, seen, before) -> None:
        rejected = self.rejected | {(item.revision, item.task) for item in self.status.rejected}
        rolled_back = rollback_to(self.annotations)
        rollout = self.status.rollout or RolloutState(revision="", phase="Aborted")
        shares = {item.name: share_of(seen, item, rollout) for item in seen.revisions}
        for entry in self.spec.tasks:
            total = sum(item.weight for item in entry.backends)
            assert total in (0, 100), entry
            answering = [item for item in entry.backends if item.weight]
            assert len({item.revision for item in entry.backends}) <= 2, entry
            for backend in answering:
                was = before.get(entry.name, {}).get(backend.revision, 0)
                own = self.revisions.get(backend.revision)
                if own is None:
                    continue
                told = own.task(entry.name)
                assert told is not None, "a revision answers only the tasks that it has"
                state = self.status.rollout
                is_new = state is not None and state.revision == backend.revision
                is_back = backend.revision == rolled_back and (backend.revision, entry.name) in self.served
                is_home = told.served_by == BASELINE  # of a task that moves there to make room for a third revision
                if is_new and not was and before.get(entry.name) and not is_back and not is_home:
                    why = {(backend.revision, entry.name), (backend.revision, "")} & rejected
                    assert not why, "it was rejected, and has traffic"
                homes = [item.revision for item in entry.backends if item.revision != backend.revision]
                home = self.revisions[homes[0]].task(entry.name) if homes and homes[0] in self.revisions else None
                if is_new and home is not None and home.contract != told.contract:
                    assert was or shares[backend.revision] == 100, "it moves as a whole, to servers that can take it"
                    is_left = not self.torn and not shares[backend.revision] and self.revisions[homes[0]].ready
                    assert not is_left, "it stays where there is no server"
                elif is_new and home is not None:
                    # An operator that is killed before it writes the table cannot lower a weight with that write.
                    left = was if self.torn else 0
                    assert backend.weight <= max(shares[backend.revision], left), "more than its servers can take"
                    # One that had traffic, and lost it while its servers were away, goes on where it was.
                    is_first = not was and (backend.revision, entry.name) not in self.tried
                    if is_first and before.get(entry.name) and not is_back and "promote" not in state.order:
                        assert backend.weight <= self.serving.rollout.steps[0], "it takes no steps"
        kept = {name for name in TASKS if before.get(name) and all(item.task(name) for item in self.revisions.values())}
        for name in kept:
            assert sum(self.weights.get(name, {}).values()) == 100, f"{name} is not answered any more"
        for _, spec in self.tables.values():
            used = {item.revision for entry in spec.tasks for item in entry.backends if item.weight}
            assert used & self.revisions.keys() <= self.live, "a gateway sends requests to servers that are gone"
        assert len(self.live) <= 2


def happen(world: World, what: tuple) -> None:
    match what:
        case ("train", kind):
            number = len(world.revisions)
            if number < len(NAMES) and NAMES[number] not in world.revisions:
                urgency = task(
                    "urgency",
                    labels=("low", "high") if kind == "changed" else ("no", "yes"),
                    served_by=BASELINE if kind == "baseline" else "classification",
                )
                tasks = {"added": [*TASKS, f"new-{number}"], "removed": ["stance"]}.get(kind, [urgency, "stance"])
                world.trained(NAMES[number], tasks)
        case ("good", requests) if world.route is not None:
            for name, weights in world.weights.items():
                for revision in weights:
                    world.send(name, revision, requests)
        case ("bad", name) if world.route is not None and world.status.rollout is not None:
            revision = world.status.rollout.revision
            if revision in world.weights.get(name, {}):
                world.send(name, revision, 80, errors=60)
        case ("ready", name, ready) if name in world.revisions and world.revisions[name].has_pods:
            world.ready(name, ready)
        case ("wait", seconds):
            world.now += seconds
        case ("order", action) if world.route is not None:
            world.order(action)
        case ("rollback", name):
            world.annotations.pop("multitask.dev/rollback", None)
            if name:
                world.order("rollback", name)
        case ("gateway", "dead"):
            world.dead = {world.gateways[0]}
        case ("gateway", "alive"):
            world.dead = set()
        case ("gateway", "restart"):
            world.restart(world.gateways[-1])
        case ("gateway", "new") if len(world.gateways) < 4:
            world.gateways = (*world.gateways, f"gateway-{len(world.gateways)}")
        case ("golden", name):
            world.golden = {name: agreement(20, 2)} if name else {}
            world.reports.clear()
        case ("delete", name) if name in world.revisions and name not in world.live:
            del world.revisions[name]
            if world.newest == name:
                world.newest = next(reversed(world.revisions), None)
        case ("route", "delete"):
            world.delete_route()
        case ("route", "wipe status") if world.route is not None:
            world.wipe_status()


@example([("gateway", "dead"), ("order", "abort"), ("wait", 61)], (10, 50, 100), 2, False)
@example([("wait", 600), ("ready", "two", 0), ("ready", "two", 1)], (10, 50, 100), 2, False)
@example([("ready", "two", 1)], (100,), 2, False)
@example([("train", "same"), ("ready", "two", 0)], (10, 50, 100), 1, True)
@example([("bad", "urgency"), ("bad", "stance"), ("train", "same"), ("wait", 61), ("order", "retry")], (100,), 2, False)
@example([("bad", "urgency"), ("bad", "stance"), ("wait", 61), ("route", "delete")], (10, 50, 100), 2, False)
@example([("bad", "urgency"), ("wait", 61), ("route", "wipe status"), ("good", 60)], (10, 50, 100), 2, True)
@example([("good", 60), ("route", "delete"), ("wait", 61)], (10, 50, 100), 2, False)
@example([("rollback", "one"), ("train", "baseline"), ("rollback", ""), ("wait", 600)], (1, 99, 100), 2, False)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(happenings, max_size=12),
    st.sampled_from([(10, 50, 100), (100,), (1, 99, 100)]),
    st.sampled_from([1, 2]),
    st.booleans(),
)
def test_whatever_happens_the_rules_hold_and_everything_settles(what, steps, revisions, torn):
    world = Checked(serving=Serving.model_validate({"rollout": {"steps": list(steps)}}, by_alias=True), torn=torn)
    for name in NAMES[:revisions]:
        world.trained(name, TASKS).settle()
    for item in what:
        happen(world, item)
        world.settle()
    writes = world.writes
    world.settle()
    assert world.writes == writes


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(happenings, max_size=8))
def test_when_the_trouble_is_over_the_newest_revision_has_the_traffic_or_is_rejected_or_held(what):
    world = Checked()
    world.trained("one", TASKS).settle()
    for item in what:
        happen(world, item)
        world.settle()
    world.dead, world.golden, world.annotations = set(), {}, {}
    for _ in range(40):
        for name in list(world.revisions):
            if world.revisions[name].has_pods:
                world.ready(name, world.revisions[name].replicas)
        world.after(601)
    assert world.decision is not None
    decision = world.decision
    assert decision.reason in {
        "RolledOut",
        "TasksExcluded",
        "RevisionRejected",
        "NoRoomForRevision",
        "RolloutPaused",
    }, decision.message


GOES_BACK = {"bad", "rollback", "golden"}
"""What happens when all traffic goes back to the servers that the old revision has left."""


class Full(Checked):
    """A world with ``room`` for so many servers. One that ends leaves its room, and one that has room is ready, a step
    later."""

    room = 100
    fewest = 100

    def trained(self, name, tasks, *, replicas=0):
        return super().trained(name, tasks, replicas=replicas)

    def _servers(self, decision) -> bool:
        before = dict(self.revisions)
        free = self.room - sum(own.ready + own.starting for own in before.values())
        for name, own in before.items():
            wanted = decision.servers.get(name, self.serving.replicas) if name in decision.live else 0
            ready = min(own.ready + own.starting, wanted)
            starting = max(0, min(wanted - ready, free))
            free -= starting
            since = (own.no_room_since or self.now) if ready + starting < wanted else None
            self.revisions[name] = replace(
                own,
                replicas=wanted,
                ready=ready,
                starting=starting,
                has_pods=wanted > 0,
                no_room_since=since,
            )
        self.fewest = min(self.fewest, sum(own.ready for own in self.revisions.values()))
        return before != self.revisions

    def _check(self, seen, before) -> None:
        super()._check(seen, before)
        for _, spec in self.tables.values():
            used = {item.revision for entry in spec.tasks for item in entry.backends if item.weight}
            for name in used & self.revisions.keys():
                assert self.revisions[name].ready, f"{name} has traffic and no server"


@example(4, 4, [("train", "same"), ("good", 60), ("good", 60), ("order", "abort"), ("order", "retry")], False)
@example(2, 2, [("train", "same"), ("bad", "urgency"), ("train", "same"), ("good", 60)], False)
@example(2, 2, [("train", "same"), ("order", "promote"), ("rollback", "one"), ("rollback", "")], True)
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.integers(2, 5),
    st.integers(0, 6),
    st.lists(happenings.filter(lambda what: what[0] not in ("ready", "delete", "wipe status")), max_size=10),
    st.booleans(),
)
def test_in_a_full_cluster_one_server_is_missing_at_most_and_everything_settles(replicas, more, what, torn):
    world = Full(serving=Serving(replicas=replicas), torn=torn)
    world.room = replicas + more
    world.trained("one", TASKS).settle()
    world.fewest = replicas
    for item in what:
        happen(world, item)
        world.settle()
        world.after(130)
    goes_back = {("order", "abort"), ("order", "pause"), *((name, about) for name, about in what if name in GOES_BACK)}
    if replicas == 2 or not goes_back & set(what):
        assert world.fewest >= replicas - 1
    world.golden, world.dead, world.annotations = {}, set(), {}
    for _ in range(40):
        world.after(601)
    writes = world.writes
    world.settle()
    assert world.writes == writes
    assert any(own.ready for own in world.revisions.values())
    assert world.decision is not None
    assert world.decision.reason in {
        *("RolledOut", "TasksExcluded", "RevisionRejected", "NoRoomForRevision", "RolloutPaused")
    }, world.decision.message
