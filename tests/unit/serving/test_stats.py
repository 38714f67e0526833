"""What a gateway counts, and when it begins to count from 0."""

from __future__ import annotations

import pytest

from multitask_api.routes import Backend, RoutedTask, RouteMetadata, TaskRoute, TaskRouteSpec
from multitask_api.serving_io.gateway_state import LATENCY_BUCKETS_S, GatewayState, LabelCounts
from multitask_serving.gateway.routes import RouteTable
from multitask_serving.gateway.stats import Stats

URGENCY = "team/desk/urgency"


def table(**windows: str | None) -> RouteTable:
    """Tasks with their windows, each on the revisions old and new."""
    backends = tuple(Backend(service=name, port=8001, weight=50, revision=name) for name in ("old", "new"))
    tasks = tuple(
        RoutedTask(name=name, type="Generation", fields=("text",), window=window, backends=backends)
        for name, window in windows.items()
    )
    spec = TaskRouteSpec(namespace="team", model="desk", tasks=tasks)
    return RouteTable([TaskRoute(metadata=RouteMetadata(name="desk"), spec=spec)])


def following(**windows: str | None) -> Stats:
    stats = Stats()
    stats.follow(table(**windows))
    return stats


def answered(stats: Stats, revision: str = "old", task: str = URGENCY, **how) -> None:
    stats.begin(task, revision).end(**how)


def in_window(stats: Stats, task: str = URGENCY) -> dict[str, tuple[str, int, dict[str, int], int]]:
    """Revision → window, requests, errors, in flight."""
    return {
        each.revision: (each.window, each.requests, each.errors, each.in_flight)
        for each in stats.window_counts()
        if each.task == task
    }


def running(stats: Stats) -> dict[str, int]:
    return {each.revision: each.running for each in stats.window_counts() if each.task == URGENCY}


def test_a_revision_without_requests_has_counts_of_0():
    assert in_window(following(urgency="new/1")) == {"old": ("new/1", 0, {}, 0), "new": ("new/1", 0, {}, 0)}


def test_requests_errors_and_those_that_run_are_counted_by_revision():
    stats = following(urgency="new/1")
    answered(stats, seconds=0.01)
    answered(stats, error="UNAVAILABLE")
    answered(stats, error="UNAVAILABLE")
    stats.begin(URGENCY, "new")
    assert in_window(stats) == {"old": ("new/1", 3, {"UNAVAILABLE": 2}, 0), "new": ("new/1", 1, {}, 1)}


def test_a_request_that_names_its_revision_is_no_sample_of_the_traffic():
    stats = following(urgency="new/1")
    request = stats.begin(URGENCY, "old", pinned=True)
    assert in_window(stats)["old"] == ("new/1", 0, {}, 0)
    assert running(stats) == {"old": 1, "new": 0}
    request.end(error="UNAVAILABLE")
    assert in_window(stats)["old"] == ("new/1", 0, {}, 0)
    assert stats.snapshot()[URGENCY, "old"].errors == {"UNAVAILABLE": 1}


@pytest.mark.parametrize(
    ("seconds", "bucket"), [(0.0, 0), (0.005, 0), (0.0051, 1), (1.0, 12), (60.0, 19), (60.1, 20), (1e6, 20)]
)
def test_a_latency_is_counted_up_to_and_with_the_bound_of_its_bucket(seconds: float, bucket: int):
    stats = following(urgency=None)
    answered(stats, seconds=seconds)
    (counts,) = [each for each in stats.window_counts() if each.revision == "old"]
    assert len(counts.latencies) == len(LATENCY_BUCKETS_S) + 1
    assert [number for number, count in enumerate(counts.latencies) if count] == [bucket]


def test_errors_have_no_latency():
    stats = following(urgency=None)
    answered(stats, seconds=1, error="INTERNAL")
    assert sum(sum(each.latencies) for each in stats.window_counts()) == 0


# the sentence, the windows of the next table, and what is left of one request to urgency and one to intent
NEXT = [
    ("another window begins at 0", {"urgency": "new/2", "intent": "new/1"}, [0, 1]),
    ("the same one goes on", {"urgency": "new/1", "intent": "new/1"}, [1, 1]),
    ("each task has its own", {"urgency": "new/1", "intent": None}, [1, 0]),
    ("a task that is gone is forgotten", {"urgency": "new/1"}, [1, 0]),
]


@pytest.mark.parametrize(("windows", "left"), [row[1:] for row in NEXT], ids=[row[0] for row in NEXT])
def test_a_window_is_a_fresh_start(windows, left):
    stats = following(urgency="new/1", intent="new/1")
    answered(stats)
    answered(stats, task="team/desk/intent")
    stats.follow(table(**windows))
    found = [sum(each[1] for each in in_window(stats, task).values()) for task in (URGENCY, "team/desk/intent")]
    assert found == left


def test_a_request_that_ends_after_its_window_counts_in_none_and_is_seen_until_then():
    stats = following(urgency="new/1")
    request = stats.begin(URGENCY, "old")
    stats.follow(table(urgency="new/2"))
    assert in_window(stats)["old"] == ("new/2", 0, {}, 0)
    assert running(stats)["old"] == 1
    request.end(seconds=1)
    assert in_window(stats)["old"] == ("new/2", 0, {}, 0)
    assert running(stats)["old"] == 0
    assert stats.snapshot()[URGENCY, "old"].requests == 1


def test_what_still_runs_on_a_revision_that_is_not_routed_any_more_is_seen():
    stats = following(urgency="new/1")
    request = stats.begin(URGENCY, "gone")
    stats.follow(table(urgency="new/2"))
    assert running(stats) == {"gone": 1, "new": 0, "old": 0}
    request.end()
    assert set(running(stats)) == {"old", "new"}
    stats.follow(table(urgency="new/2"))
    assert (URGENCY, "gone") not in stats.snapshot()


LABELLED = ("new/2", 1, 2)
"""The second step of a rollout, and the labels of the old revision: right, wrong."""

# the sentence, the next windows of the task, and the labels that its old revision has then
KEPT = [
    ("in the same window", ["new/2"], LABELLED),
    ("in the next step", ["new/3"], LABELLED),
    ("over several steps", ["new/3", "new/5"], LABELLED),
    ("not in another rollout", ["newer/2"], None),
    ("not without a rollout", [None], None),
    ("not when the task was gone meanwhile", [], None),
]


@pytest.mark.parametrize(("windows", "left"), [row[1:] for row in KEPT], ids=[row[0] for row in KEPT])
def test_labels_are_counted_from_the_beginning_of_a_rollout(windows, left):
    stats = following(urgency="new/2")
    answered(stats)
    for is_right in (True, False, False):
        assert stats.count_label(URGENCY, "old", "new/1", is_right=is_right)
    for window in windows:
        stats.follow(table(urgency=window))
    if not windows:
        stats.follow(table(intent="new/2"))
        stats.follow(table(urgency="new/2"))
    (row,) = [each for each in stats.window_counts() if each.revision == "old"]
    assert (row.labels and (row.labels.right, row.labels.wrong)) == (left and left[1:])
    assert row.requests == (1 if windows == ["new/2"] else 0)


@pytest.mark.parametrize("window", ["older/1", "", "new-ish/1", "/1"])
def test_a_label_for_an_answer_of_another_rollout_changes_nothing(window):
    stats = following(urgency="new/1")
    before = stats.window_counts()
    assert not stats.count_label(URGENCY, "old", window, is_right=True)
    assert not stats.count_label("team/desk/gone", "old", "new/1", is_right=True)
    assert stats.window_counts() == before
    assert stats.snapshot() == {}


def test_a_label_may_come_after_its_revision_has_left_the_table():
    stats = following(urgency="new/1")
    assert stats.count_label(URGENCY, "gone", "new/1", is_right=False)
    stats.follow(table(urgency="new/2"))
    (row,) = [each for each in stats.window_counts() if each.revision == "gone"]
    assert (row.window, row.requests, row.labels) == ("new/2", 0, LabelCounts(wrong=1))


def test_totals_go_on_over_all_windows():
    stats = following(urgency="new/1")
    for step in range(3):
        answered(stats, seconds=0.5)
        stats.follow(table(urgency=f"new/{step}"))
    assert (stats.snapshot()[URGENCY, "old"].requests, stats.snapshot()[URGENCY, "old"].seconds) == (3, 1.5)


def test_a_reader_ignores_what_a_newer_gateway_adds():
    counts = {"task": URGENCY, "revision": "old", "requests": 3, "tokens": 40}
    table = {"namespace": "team", "name": "desk", "generation": 4, "shard": 1}
    state = GatewayState.model_validate(
        {"gateway": "g", "started": 1.0, "zone": "a", "tables": [table], "counts": [counts]}
    )
    assert (state.counts[0].requests, state.tables[0].generation) == (3, 4)
