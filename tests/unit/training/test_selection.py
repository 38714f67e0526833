from __future__ import annotations

import pytest

from multitask_api.stage_io.results import CurvePoint, TaskPoint
from multitask_trainer.training.selection import Selection, is_better, saturation_step, still_improving


def points(**scores: float) -> dict[str, TaskPoint]:
    return {name: TaskPoint(loss=1.0, score=score) for name, score in scores.items()}


def curve(*points: tuple[int, str, float, float]) -> list[CurvePoint]:
    """(step, phase, score, loss)"""
    return [
        CurvePoint.model_validate({"step": step, "phase": phase, "tasks": {"a": {"score": score, "loss": loss}}})
        for step, phase, score, loss in points
    ]


@pytest.mark.parametrize(
    ("references", "scores", "value"),
    [
        pytest.param({}, {"a": 0.5}, 0.5, id="a baseline: its score"),
        pytest.param({}, {"a": 0.5, "b": 0.7}, 0.6, id="stage 2: the mean of scores"),
        pytest.param({"a": 0.5, "b": 0.8}, {"a": 0.5, "b": 0.4}, 0.75, id="a mixture: the mean of ratios"),
        pytest.param({"a": 0.1, "b": 0.9}, {"a": 0.09, "b": 0.9}, 0.95, id="a hard task counts as much as an easy one"),
        pytest.param({"a": 0.5}, {"a": 0.5, "b": 0.6}, 0.8, id="without a baseline: the plain score"),
        pytest.param({"a": 0.0}, {"a": 0.25}, 1.25, id="a baseline of 0: the difference"),
        pytest.param({"a": -0.1}, {"a": 0.1}, 1.2, id="a baseline below 0: the difference"),
    ],
)
def test_what_is_to_be_highest(references, scores, value):
    assert Selection(references).value(points(**scores)) == pytest.approx(value)


@pytest.mark.parametrize(
    ("candidate", "better"),
    [((0.8, 9.0), True), ((0.7, 0.4), True), ((0.7, 0.5), False), ((0.7, 0.6), False), ((0.6, 0.1), False)],
)
def test_a_higher_score_is_better_and_ties_go_by_loss(candidate, better):
    assert is_better(candidate, best=(0.7, 0.5)) is better


REFERENCES = {"intent": 0.93, "complaint": 0.90, "escalate": 0.56}
BEFORE = points(intent=0.907, complaint=0.875, escalate=0.667)


@pytest.mark.parametrize(
    ("rows", "end", "chosen"),
    [
        pytest.param(
            {"intent": 300, "complaint": 200, "escalate": 60},
            points(intent=0.947, complaint=0.900, escalate=0.550),
            True,
            id="60 rows of one task against 500 of two",
        ),
        pytest.param(
            {"intent": 300, "complaint": 200, "escalate": 3000},
            points(intent=0.947, complaint=0.900, escalate=0.550),
            False,
            id="the loss of a task with many rows is one",
        ),
        pytest.param(
            {"intent": 300, "complaint": 200, "escalate": 60},
            points(intent=0.75, complaint=0.75, escalate=0.667),
            False,
            id="a fall of tasks with many rows is one",
        ),
        pytest.param({}, BEFORE | points(escalate=0.666), False, id="no mixture: the highest value"),
    ],
)
def test_the_end_is_kept_unless_an_earlier_checkpoint_is_better_by_more_than_noise(rows, end, chosen):
    selection = Selection(REFERENCES, rows)
    best = selection.value(BEFORE)
    assert selection.value(end) < best
    assert selection.end_is_as_good(end, best) is chosen


def test_the_noise_is_that_of_the_rows():
    selection = Selection({"a": 0.5, "b": 0.0}, {"a": 100, "b": 400})
    # (0.05 / 0.5)² = 0.01 and 0.025² = 0.000625, of each of two validations.
    assert selection.noise(points(a=0.5, b=0.5)) == pytest.approx((2 * 0.010625) ** 0.5 / 2)
    assert selection.noise(points(a=1.0, b=-0.2)) == 0.0


def test_saturation_is_the_lowest_loss_before_the_tail():
    observed = curve(
        (10, "warmup", 0.1, 3.0), (20, "constant", 0.9, 1.0), (30, "constant", 0.95, 1.1), (35, "decay", 0.99, 0.2)
    )
    assert saturation_step(observed) == 20


def test_a_run_without_a_validation_before_its_tail_saturates_inside_it():
    assert saturation_step(curve((1, "decay", 0.1, 3.0))) == 1


RISING = [(10, "constant", 0.5, 2.0), (20, "constant", 0.6, 1.5), (30, "constant", 0.7, 1.2), (35, "decay", 0.8, 1.0)]


@pytest.mark.parametrize(
    ("validations", "ended_by_limit", "expected"),
    [
        pytest.param(RISING, True, True, id="score and loss best at the last validation before the tail"),
        pytest.param(RISING, False, False, id="patience ended it"),
        pytest.param([*RISING[:2], (30, "constant", 0.6, 1.2)], True, False, id="the score no longer rises"),
        pytest.param([*RISING[:2], (30, "constant", 0.7, 1.6)], True, False, id="the loss no longer falls"),
        pytest.param([*RISING[:1], RISING[3]], True, False, id="one validation before the tail shows nothing"),
        pytest.param([RISING[3]], True, False, id="none before the tail, one in it"),
        pytest.param(RISING[:2], True, True, id="two are enough"),
    ],
)
def test_whether_a_baseline_was_still_improving_at_its_limit(validations, ended_by_limit, expected):
    assert still_improving(curve(*validations), Selection({}), ended_by_limit=ended_by_limit) is expected
