"""When the decay begins, on curves that are written down."""

from __future__ import annotations

import math

import pytest

from multitask_api.stage_io.results import CurvePoint, TaskPoint
from multitask_trainer.training.selection import Selection
from multitask_trainer.training.stopping import EarlyStopping, evals_since_fall, evals_since_rise, smoothed

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


def first_reason(points: list[CurvePoint], references: dict[str, float], patience: int = 5) -> tuple[int, str] | None:
    """The validation after which the decay of a mixture begins, and why."""
    stopping = EarlyStopping(Selection(references), patience, smooth=True)
    for count in range(1, len(points) + 1):
        if (reason := stopping.reason(points[:count], 0)) is not None:
            return count, reason
    return None


RISE = [0.2, 0.4, 0.6]
NOISE = [0.02 * (-1) ** number / (1 + number / 9) for number in range(40)]
SWINGING = [0.8 + each for each in NOISE]


@pytest.mark.parametrize(
    ("scores", "references", "expected"),
    [
        pytest.param(
            {"a": [*RISE, *[0.8] * 9], "b": [0.1, 0.3, *[0.5] * 10]},
            BASELINES,
            (8, "settled"),
            id="both reached their baselines, and two validations brought nothing",
        ),
        pytest.param(
            {"a": [*RISE, *[0.8] * 12], "b": [0.1, 0.3, *[0.45] * 13]},
            BASELINES,
            (11, "patience"),
            id="one stays below its baseline: patience is longer",
        ),
        pytest.param(
            {"a": [*RISE, *[0.7] * 4, *[0.8] * 9], "b": [0.1, 0.3, *[0.5] * 14]},
            BASELINES,
            (12, "settled"),
            id="a mixture that stands still before it picks up a task goes on",
        ),
        pytest.param(
            {"a": [*RISE, *SWINGING], "b": [0.1, 0.3, 0.5, *[0.5 - each for each in NOISE]]},
            BASELINES,
            (9, "settled"),
            id="swings between validations are not rises",
        ),
        pytest.param(
            {"a": [0.1 + 0.05 * number for number in range(15)]}, {"a": 0.3}, None, id="what rises goes on, above too"
        ),
        pytest.param({"a": [*RISE, *[0.8] * 12]}, {}, (11, "patience"), id="without a baseline nothing can be reached"),
        pytest.param({"a": [0.5], "b": [0.5]}, BASELINES, None, id="one validation shows nothing"),
    ],
)
def test_when_a_mixture_stops(scores, references, expected):
    assert first_reason(curve(**scores), references) == expected


def test_a_task_that_once_was_there_has_reached_its_baseline():
    fallen = [*RISE, 0.8, 0.8, 0.8, *[0.75] * 6]
    assert first_reason(curve(a=fallen, b=[0.1, 0.3, *[0.5] * 10]), BASELINES) == (8, "settled")


def test_patience_of_the_resource_is_what_counts():
    points = curve(a=[*RISE, *[0.6] * 12])
    assert first_reason(points, {"a": 0.8}, patience=3) == (8, "patience")
    assert first_reason(points, {"a": 0.8}, patience=8) == (13, "patience")


@pytest.mark.parametrize(("stale", "reason"), [(4, None), (5, "patience"), (6, "patience")])
def test_a_baseline_has_patience_with_its_best_validation(stale, reason):
    assert EarlyStopping(Selection({}), 5).reason(curve(a=[0.5] * 9), stale) == reason


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


def test_validations_since_the_smoothed_loss_fell():
    assert evals_since_fall([2.0, 1.9, 1.8], 0.02) == 0
    assert evals_since_fall([2.0, 1.99, 1.98, 1.97], 0.02) == 3
    assert evals_since_fall([2.0, 1.0, 1.0, 1.0, 1.0, 1.0], 0.02) == 2


def sixteen_at_their_baselines(scores: list[float], losses: list[float]) -> list[CurvePoint]:
    """A mixture of 17 tasks; ``scores`` and ``losses`` are those of the last one, ``t16``."""
    done = {f"t{number}": TaskPoint(loss=0.5, score=0.8) for number in range(16)}
    return [
        CurvePoint(step=50 * number, phase="constant", tasks=done | {"t16": TaskPoint(loss=loss, score=score)})
        for number, (score, loss) in enumerate(zip(scores, losses, strict=True), start=1)
    ]


@pytest.mark.parametrize(
    ("scores", "losses", "ends_at"),
    [
        pytest.param([0.3 + 0.03 * number for number in range(18)], [1.0] * 18, None, id="its score rises"),
        pytest.param([0.0] * 18, [2.0 * 0.97**number for number in range(18)], None, id="its loss falls"),
        pytest.param([0.3] * 18, [1.0] * 18, 6, id="it stands still"),
        pytest.param([0.3] * 18, [1.0 + 0.05 * number for number in range(18)], 6, id="its loss rises"),
    ],
)
def test_one_of_many_tasks_that_still_learns_is_waited_for(scores, losses, ends_at):
    points = sixteen_at_their_baselines(scores, losses)
    ended = first_reason(points, {f"t{number}": 0.8 for number in range(17)})
    assert (ended and ended[0]) == ends_at


def test_smoothed_values_are_means_of_at_most_three():
    assert smoothed([0.3, 0.6, 0.9, 0.0]) == pytest.approx([0.3, 0.45, 0.6, 0.5])
    assert smoothed([]) == []


def test_noise_around_a_plateau_does_not_hold_a_mixture_up():
    """A thousand plateaus with the noise of 500 validation rows: half stop within five validations, all within 25."""
    ends = []
    for seed in range(1000):
        noise = [0.02 * math.sin(seed * 12.9898 + number * 78.233) for number in range(40)]
        ends.append(first_reason(curve(a=[0.8 + each for each in noise]), {"a": 0.79}))
    stops = sorted(end[0] for end in ends if end)
    assert len(stops) == 1000
    assert stops[500] <= 6
    assert stops[-1] <= 25
