"""Progress of a run: lines for logs, a live display on a terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from multitask_api.stage_io.manifest import StageProgress
from multitask_operator.commands.progress import LineView, LiveView, describe
from multitask_operator.formatting import duration, size
from multitask_operator.planner import plan
from support.graph_builders import all_done, failed, graph_of, model, planner_input

DESK = model()
DONE = all_done(DESK)


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def lines(view_calls):
    out, clock = io.StringIO(), Clock()
    view_calls(LineView(out, clock), clock)
    return out.getvalue().splitlines()


def test_one_line_a_start_and_an_end():
    graph = graph_of(DESK, DONE)
    manifests = [graph[name].manifest for name in ("prepare/urgency", "baseline/urgency/seed-17", "filter", "verify")]

    def calls(view, clock):
        view.started("base", 1)
        view.started("base", 2)
        for manifest in manifests:
            view.finished(manifest.stage, 4.25, manifest)
        view.failed("base", failed(graph["base"], "Retryable"), final=False)
        view.failed("base", failed(graph["base"]), final=True)

    assert lines(calls) == [
        "start  base",
        "start  base (attempt 2)",
        "done   prepare/urgency  4.2 s  train 4,000, validation 50, test 100 rows",
        "done   baseline/urgency/seed-17  4.2 s  test score 0.850 at step 350",
        "done   filter  4.2 s",
        "done   verify  4.2 s  399 of 400 answers equal, 0 different",
        "failed, will be tried again: base: it broke",
        "FAILED base: it broke",
    ]


def test_at_most_one_line_of_progress_in_15_seconds():
    current = plan(DESK, planner_input(DESK), 0.0)

    def calls(view, clock):
        for second in range(0, 61, 5):
            clock.now = float(second)
            view.progress(current, [("base", clock.now, None)])

    assert lines(calls) == [f"       base {second} s" for second in (15, 30, 45, 60)]


def test_a_terminal_shows_the_running_stages_in_a_block():
    out = io.StringIO()
    view = LiveView(Console(file=out, force_terminal=True, width=100, color_system=None))
    progress = StageProgress(stage="base", phase="training", step=50, total=400, loss=2.5, tokens_per_second=9000.0)
    with view.live():
        view.started("base", 1)
        view.progress(plan(DESK, planner_input(DESK, all_done(DESK, until="base")), 0.0), [("base", 12.0, progress)])
    assert "start  base" in out.getvalue()
    assert "4 of 20 stages done" in out.getvalue()
    assert "base training 50/400 loss 2.500 9,000 tokens/s 12 s" in out.getvalue()


def test_a_stage_without_progress_shows_its_time():
    assert describe("filter", 1.0, None) == "filter 1.0 s"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.96, "10.0 s"),
        (12, "12 s"),
        (119, "119 s"),
        (600, "10 min"),
        (9000, "2.5 h"),
        (200_000, "2.3 days"),
        (4_444_200, "51 days"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2.4e9, "2.4 GB"), (3e12, "3.0 TB")]
)
def test_sizes(count, text):
    assert size(count) == text
