"""When the decay begins, on curves that are written down."""

from __future__ import annotations

import math

import pytest

from multitask_api.stage_io.results import CurvePoint, TaskPoint
from multitask_trainer.training.selection import Selection
from multitask_trainer.training.stopping import EarlyStopping, evals_since_rise, smoothed

BASELINES = {"a": 0.8, "b": 0.5}


def curve(**scores: list[float]) -> list[CurvePoint]:
    """A validation every 50 steps."""
    return [
        CurvePoint(
            step=50 * number,
            phase="constant",
            tasks={name: TaskPoint(loss=1.0, score=values[number - 1]) for name, values in scores.items()},
        )
        for number in range(1, 1 + min(map(len, scores.values())))
    ]


def settled_after(points: list[CurvePoint], references: dict[str, float]) -> int | None:
    """The validation after which the decay of a mixture begins; None: it goes on to its limit."""
    stopping = EarlyStopping(Selection(references), patience=2, is_mixture=True)
    return next((count for count in range(1, len(points) + 1) if stopping.is_due(points[:count], count)), None)


RISE = [0.2, 0.4, 0.6]
NOISE = [0.02 * (-1) ** number / (1 + number / 9) for number in range(40)]
SWINGING = [0.8 + each for each in NOISE]


@pytest.mark.parametrize(
    ("scores", "references", "expected"),
    [
        pytest.param(
            {"a": [*RISE, *[0.8] * 9], "b": [0.1, 0.3, *[0.5] * 10]},
            BASELINES,
            8,
            id="both reached their baselines, and two validations brought nothing",
        ),
        pytest.param(
            {"a": [*RISE, *[0.8] * 40], "b": [0.1, 0.3, *[0.45] * 41]},
            BASELINES,
            None,
            id="one stays below its baseline, however long",
        ),
        pytest.param(
            {"a": [*RISE, *[0.7] * 20, *[0.8] * 9], "b": [0.1, 0.3, *[0.5] * 30]},
            BASELINES,
            28,
            id="a mixture that stands still before it picks up a task goes on",
        ),
        pytest.param(
            {"a": [*RISE, *SWINGING], "b": [0.1, 0.3, 0.5, *[0.5 - each for each in NOISE]]},
            BASELINES,
            9,
            id="swings between validations are not rises",
        ),
        pytest.param(
            {"a": [0.1 + 0.05 * number for number in range(15)]}, {"a": 0.3}, None, id="what rises goes on, above too"
        ),
        pytest.param({"a": [*RISE, *[0.8] * 12]}, {}, None, id="without a baseline nothing can be reached"),
        pytest.param({"a": [0.5], "b": [0.5]}, BASELINES, None, id="one validation shows nothing"),
    ],
)
def test_when_a_mixture_has_settled(scores, references, expected):
    assert settled_after(curve(**scores), references) == expected


def test_a_task_that_once_was_there_has_reached_its_baseline():
    fallen = [*RISE, 0.8, 0.8, 0.8, *[0.75] * 6]
    assert settled_after(curve(a=fallen, b=[0.1, 0.3, *[0.5] * 10]), BASELINES) == 8


@pytest.mark.parametrize(("stale", "is_due"), [(4, False), (5, True), (6, True)])
def test_a_baseline_has_patience_with_its_best_validation(stale, is_due):
    assert EarlyStopping(Selection({}), 5).is_due(curve(a=[0.5] * 9), stale) is is_due


@pytest.mark.parametrize(
    ("values", "since"),
    [
        pytest.param([0.5], 0, id="the first is a rise"),
        pytest.param([0.5, 0.6, 0.7], 0, id="rising"),
        pytest.param([0.5, 0.5, 0.5], 2, id="flat"),
        pytest.param([0.5, 0.501, 0.501, 0.501], 3, id="a rise below the least counts as none"),
        pytest.param([0.5, 0.502, 0.504, 0.506], 0, id="small rises add up"),
        pytest.param([0.5, 0.9, 0.5, 0.5, 0.5], 3, id="one high validation lifts the mean once"),
    ],
)
def test_validations_since_the_smoothed_value_rose(values, since):
    assert evals_since_rise(values, 0.002) == since


def test_smoothed_values_are_means_of_at_most_three():
    assert smoothed([0.3, 0.6, 0.9, 0.0]) == pytest.approx([0.3, 0.45, 0.6, 0.5])
    assert smoothed([]) == []


def test_noise_around_a_plateau_does_not_hold_a_mixture_up():
    """A thousand plateaus with the noise of 500 validation rows: half stop within five validations, all within 25."""
    ends = []
    for seed in range(1000):
        noise = [0.02 * math.sin(seed * 12.9898 + number * 78.233) for number in range(40)]
        ends.append(settled_after(curve(a=[0.8 + each for each in noise]), {"a": 0.79}))
    stops = sorted(end for end in ends if end)
    assert len(stops) == 1000
    assert stops[500] <= 6
    assert stops[-1] <= 25
