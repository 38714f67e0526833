"""The planner's decisions, as tables and as properties."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multitask_api.stage_io.manifest import Resolved
from multitask_operator.planner import Capacity, Running, plan
from multitask_operator.planner.costs import training_threads
from support.graph_builders import (
    GB,
    TWO_CORES,
    all_done,
    failed,
    finish,
    graph_of,
    manifest,
    model,
    planner_input,
    resolved,
    task,
)

DESK = model()
EVERYTHING = all_done(DESK)


def starts(resource, manifests=None, now=0.0, **more):
    return [start.node.name for start in plan(resource, planner_input(resource, manifests, **more), now).starts]


def running(graph, *names, digest=None):
    return tuple(Running(name, digest or graph[name].digest, 0.0) for name in names)


SIXTEEN = Capacity(cores=16, memory=64 * GB)
STARTS = [
    ("at first the prepares start, as many as cores", {}, TWO_CORES, ["prepare/escalate", "prepare/intent"]),
    (
        "with cores enough all prepares start",
        {},
        SIXTEEN,
        ["prepare/escalate", "prepare/intent", "prepare/reply", "prepare/urgency"],
    ),
    ("the base starts when all are prepared", {"until": "base"}, TWO_CORES, ["base"]),
    (
        "baselines start with the task that has most rows",
        {"until": "baseline"},
        TWO_CORES,
        ["baseline/intent/seed-17", "baseline/urgency/seed-17"],
    ),
    ("memory bounds as cores do", {"until": "baseline"}, Capacity(16, 1 * GB), ["baseline/intent/seed-17"]),
    ("so does the number of processes", {"until": "baseline"}, Capacity(16, 64 * GB, 1), ["baseline/intent/seed-17"]),
    ("an idle machine takes a stage that looks too large", {"until": "base"}, Capacity(1, 1), ["base"]),
    ("verify and ledger never share the machine", {"until": "verify"}, SIXTEEN, ["verify"]),
    ("nothing starts when all is done", {}, TWO_CORES, []),
]


@pytest.mark.parametrize(("sentence", "done", "capacity", "expected"), STARTS, ids=[row[0] for row in STARTS])
def test_what_starts(sentence, done, capacity, expected):
    manifests = all_done(DESK, **done) if done else EVERYTHING if not expected else {}
    if done == {"until": "verify"}:  # both become ready at once
        manifests = {key: value for key, value in EVERYTHING.items() if value.kind not in ("verify", "ledger")}
    assert starts(DESK, manifests, capacity=capacity) == expected


TWO_GPUS = Capacity(cores=16, memory=64 * GB, gpus=("2", "5"))


def test_each_training_has_a_gpu_of_its_own_and_others_wait():
    before = all_done(DESK, until="baseline")
    graph = graph_of(DESK, before)
    first = plan(DESK, planner_input(DESK, before, capacity=TWO_GPUS), 0.0).starts
    assert [(start.node.name, start.gpu) for start in first] == [
        ("baseline/intent/seed-17", "2"),
        ("baseline/urgency/seed-17", "5"),
    ]
    assert {start.threads for start in first} == {8}
    one = (Running(*first[1].key, 0.0, gpu="5"),)
    (following,) = plan(DESK, planner_input(DESK, before, capacity=TWO_GPUS, running=one), 0.0).starts
    assert (following.node.name, following.gpu) == ("baseline/intent/seed-17", "2")
    both = (*one, Running("baseline/reply/seed-17", graph["baseline/reply/seed-17"].digest, 0.0, gpu="2"))
    assert starts(DESK, before, capacity=TWO_GPUS, running=both) == []


ADAPTERS = model(tuning={"method": "LoRA"}, stages={"baseline": {"seeds": 2}})
"""Its baselines share a base."""


def groups(**more):
    found = plan(ADAPTERS, planner_input(ADAPTERS, all_done(ADAPTERS, until="baseline"), **more), 0.0).starts
    return [[each.node.name.removeprefix("baseline/") for each in start.each] for start in found]


def test_baselines_that_share_a_base_share_the_gpus():
    (names,) = groups(capacity=replace(TWO_GPUS, gpus=("2",)))
    assert len(names) == len(set(names)) == 8
    assert groups(capacity=TWO_GPUS) == [names[:4], names[4:]]
    assert groups(capacity=replace(TWO_GPUS, gpus=tuple("012"))) == [names[:3], names[3:6], names[6:]]
    assert groups(capacity=replace(TWO_GPUS, processes=1)) == [names], "with maxParallelJobs: 1 one process has all"
    busy = (Running("mixture/all", "d", 0.0, gpu="5"),)
    assert groups(capacity=TWO_GPUS, running=busy) == [names], "nothing waits for a GPU that is busy"
    assert groups(capacity=TWO_GPUS, running=(*busy, Running("filter", "d", 0.0, gpu="2"))) == []
    assert groups(capacity=SIXTEEN) == [[name] for name in names[:4]], "on a CPU side by side"
    dropout = model(tuning={"method": "LoRA", "dropout": 0.1}, stages={"baseline": {"seeds": 2}})
    found = plan(dropout, planner_input(dropout, all_done(dropout, until="baseline"), capacity=TWO_GPUS), 0.0).starts
    assert [(start.companions, start.gpu) for start in found] == [((), "2"), ((), "5")]


def test_a_process_of_several_baselines_has_its_gpu_until_the_last_of_them_has_ended():
    graph = graph_of(ADAPTERS, all_done(ADAPTERS, until="baseline"))
    keys = [(node.name, node.digest) for node in graph.of_kind("baseline")]
    at_work = tuple(Running(*key, 0.0, gpu="2", shares_process=number > 0) for number, key in enumerate(keys[:2]))
    found = plan(
        ADAPTERS, planner_input(ADAPTERS, all_done(ADAPTERS, until="baseline"), capacity=TWO_GPUS, running=at_work), 0.0
    ).starts
    assert [start.gpu for start in found] == ["5"]
    assert not {each.key for start in found for each in start.each} & set(keys[:2])


def test_a_baseline_that_failed_is_tried_again_by_itself():
    graph = graph_of(ADAPTERS, all_done(ADAPTERS, until="baseline"))
    again = failed(graph["baseline/urgency/seed-17"], "Retryable")
    found = plan(
        ADAPTERS,
        planner_input(ADAPTERS, all_done(ADAPTERS, until="baseline"), capacity=TWO_GPUS, failures=(again,)),
        100.0,
    ).starts
    assert {len(start.each) for start in found if start.node.name == "baseline/urgency/seed-17"} == {1}
    assert all(each.node.name != "baseline/urgency/seed-17" for start in found for each in start.each[1:])


def test_small_stages_need_no_gpu():
    found = plan(DESK, planner_input(DESK, capacity=TWO_GPUS), 0.0).starts
    assert {(start.node.kind, start.gpu) for start in found} == {("prepare", None)}
    assert len(found) == 4


def test_a_stage_at_work_is_not_started_again():
    graph = graph_of(DESK)
    assert starts(DESK, running=running(graph, "prepare/escalate", "prepare/intent")) == []
    assert starts(DESK, running=running(graph, "prepare/intent")) == ["prepare/escalate"]


def test_nothing_starts_beside_the_ledger():
    before = all_done(DESK, until="verify")
    graph = graph_of(DESK, before)
    assert starts(DESK, before, running=running(graph, "ledger"), capacity=SIXTEEN) == []


def test_threads_are_fixed_by_cores_and_tasks():
    table = [(1, 8, 99, 1), (2, 8, 99, 1), (16, 8, 99, 2), (16, 3, 99, 5), (64, 1, 99, 64), (16, 8, 2, 8), (4, 8, 1, 4)]
    for cores, tasks, processes, expected in table:
        assert training_threads(Capacity(cores, GB, processes), tasks) == expected


FAILURES = [
    # kind, attempts, seconds since, started again?, finished?
    ("Retryable", 1, 1.0, False, False),
    ("Retryable", 1, 5.0, True, False),
    ("Retryable", 2, 9.0, False, False),
    ("Retryable", 2, 10.0, True, False),
    ("Retryable", 3, 1000.0, False, True),
    ("UserError", 1, 1000.0, False, True),
    ("Fault", 1, 1000.0, False, True),
]


@pytest.mark.parametrize(("kind", "attempts", "since", "again", "finished"), FAILURES)
def test_failures_are_tried_again_only_when_that_can_help(kind, attempts, since, again, finished):
    before = all_done(DESK, until="base")
    base = graph_of(DESK, before)["base"]
    decided = plan(
        DESK, planner_input(DESK, before, failures=(failed(base, kind, attempts, when=100.0),)), 100.0 + since
    )
    assert [start.node.name for start in decided.starts] == (["base"] if again else [])
    assert decided.finished is finished
    assert bool(decided.failed) is finished
    if again:
        assert decided.starts[0].attempt == attempts + 1
    elif not finished:
        assert decided.requeue_after == pytest.approx(5.0 * 2 ** (attempts - 1) - since)


def test_a_failed_stage_does_not_hold_back_independent_ones():
    before = all_done(DESK, until="baseline")
    broken = graph_of(DESK, before)["baseline/intent/seed-17"]
    decided = plan(DESK, planner_input(DESK, before, failures=(failed(broken),)), 0.0)
    assert [start.node.name for start in decided.starts] == ["baseline/urgency/seed-17", "baseline/reply/seed-17"]
    assert not decided.finished


def test_a_failure_of_another_digest_counts_for_nothing():
    graph = graph_of(DESK)
    old = failed(graph["prepare/intent"])
    other = old.__class__(old.failure, "000000000000", 1, 0.0)
    assert "prepare/intent" in starts(DESK, failures=(other,))


STOPS = [
    ("wanted goes on", "prepare/intent", None, []),
    ("a digest that is no longer wanted is stopped", "prepare/intent", "0" * 12, ["prepare/intent"]),
    ("a stage that the resource no longer has is stopped", "prepare/gone", "0" * 12, ["prepare/gone"]),
    ("one whose digest cannot be known yet goes on", "mixture/generation", "0" * 12, []),
]


@pytest.mark.parametrize(("sentence", "stage", "digest", "expected"), STOPS, ids=[row[0] for row in STOPS])
def test_what_is_stopped(sentence, stage, digest, expected):
    at_work = (Running(stage, digest or graph_of(DESK)[stage].digest, 0.0),)
    decided = plan(DESK, planner_input(DESK, running=at_work), 0.0)
    assert [stop.stage for stop in decided.stops] == expected
    again = plan(
        DESK, planner_input(DESK, running=tuple(Running(r.stage, r.digest, 0.0, stopping=True) for r in at_work)), 0.0
    )
    assert again.stops == ()


def test_a_suspended_model_stops_everything_and_starts_nothing():
    suspended = model(suspend=True)
    graph = graph_of(suspended)
    decided = plan(suspended, planner_input(suspended, running=running(graph, "prepare/intent")), 0.0)
    assert [stop.stage for stop in decided.stops] == ["prepare/intent"]
    assert decided.starts == ()


def test_adding_a_task_runs_its_prepare_and_baseline_and_what_depends_on_them():
    new = task("billing")
    old_tasks = (task("urgency"), task("intent"), task("escalate"), task("reply", "Generation"))
    larger = model(*old_tasks, new)
    ran = []
    manifests = dict(EVERYTHING)
    while names := starts(larger, manifests, capacity=SIXTEEN):
        ran += names
        graph = graph_of(larger, manifests)
        for name in names:
            manifests = finish(larger, manifests, graph[name])
    assert ran[:2] == ["prepare/billing", "baseline/billing/seed-17"]
    assert not [name for name in ran if name.startswith(("prepare/", "baseline/", "base")) and "billing" not in name]
    assert {"mixture/classification", "evaluate/classification", "export"} <= set(ran)


def test_an_unresolved_address_blocks_everything():
    decided = plan(DESK, replace(planner_input(DESK), resolved=Resolved(data={})), 0.0)
    assert decided.finished
    assert decided.starts == ()


# -- properties --------------------------------------------------------------------------------------------------------


class PlannedRun:
    """A machine that keeps what an executor keeps: processes by key, results, failures."""

    def __init__(self, resource, seed, chance):
        self.resource, self.random, self.chance = resource, random.Random(seed), chance
        self.manifests, self.running, self.failures, self.now = {}, {}, {}, 0.0
        self.runs = []

    def observe(self):
        return planner_input(
            self.resource,
            dict(self.manifests),
            running=tuple(self.running.values()),
            failures=tuple(self.failures.values()),
            capacity=Capacity(cores=3, memory=8 * GB),
        )

    def act(self, decided):
        for stop in decided.stops:
            self.running.pop(stop.key, None)
        for start in decided.starts:
            attempts = {(key, attempt) for key, attempt, _ in self.runs}
            if start.key in self.running or start.key in self.manifests or (start.key, start.attempt) in attempts:
                continue  # it is there; or the program finds its manifest and ends; or this attempt was made
            self.running[start.key] = Running(*start.key, self.now)
            self.runs.append((start.key, start.attempt, start.node))

    def end_some(self):
        for key in list(self.running):
            if self.random.random() < 0.6:
                del self.running[key]
                _, attempt, node = next(run for run in reversed(self.runs) if run[0] == key)
                if self.random.random() < self.chance:
                    kind = self.random.choice(["Retryable", "Retryable", "Fault"])
                    self.failures[key] = failed(node, kind, attempt, self.now)
                else:
                    self.manifests[key] = manifest(node, self.resource)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), chance=st.sampled_from([0.0, 0.1, 0.4]), lag=st.booleans())
def test_planning_and_acting_reaches_a_fixpoint_without_duplicates(seed, chance, lag):
    planned_run = PlannedRun(DESK, seed, chance)
    seen = planned_run.observe()
    for _ in range(400):
        fresh = planned_run.observe()
        decided = plan(DESK, seen if lag else fresh, planned_run.now)
        seen = fresh
        planned_run.act(decided)
        planned_run.end_some()
        planned_run.now += 3.0
        if decided.finished and plan(DESK, planned_run.observe(), planned_run.now).finished:
            break
    last = plan(DESK, planned_run.observe(), planned_run.now)
    assert last.finished
    assert last.actions == ()
    assert last.graph.finished or last.failed
    succeeded = list(planned_run.manifests)
    attempts = [run[0] for run in planned_run.runs]
    assert all(attempts.count(key) <= 3 for key in attempts)
    if chance == 0.0:
        assert sorted(attempts) == sorted(succeeded), "every stage ran exactly once"


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_from_any_half_done_state_the_rest_is_run(seed):
    """Any subset of results may be missing: what is there and still wanted is used, the rest is run again."""
    chosen = random.Random(seed)
    manifests = {key: value for key, value in EVERYTHING.items() if chosen.random() < 0.7}
    ran = []
    for _ in range(200):
        decided = plan(DESK, planner_input(DESK, manifests, capacity=SIXTEEN), 0.0)
        if decided.finished:
            break
        for start in decided.starts:
            assert start.key not in manifests
            ran.append(start.key)
            manifests = finish(DESK, manifests, start.node)
    assert decided.graph.finished
    assert len(ran) == len(set(ran))


def test_the_same_observation_gives_the_same_plan():
    seen = planner_input(DESK, all_done(DESK, until="baseline"))
    assert plan(DESK, seen, 5.0) == plan(DESK, seen, 5.0)


def test_the_builders_resolve_every_address():
    assert set(resolved(DESK).data) >= {"intent/train.jsonl", "reply/test.jsonl"}
