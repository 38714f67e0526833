"""Verdicts from answers: leaked rows, what a mixture is better than, and the variance between seeds."""

from __future__ import annotations

import numpy as np
import pytest

from multitask_api.stage_io.parameters import TaskDefinition
from multitask_trainer.evaluation.answers import Answer
from multitask_trainer.evaluation.qualification import EvaluationInputs, evaluate_task
from multitask_trainer.evaluation.routing import BaselineRun, route

ROWS = 400
RANDOM = np.random.default_rng(3)
GOLD = np.where(np.arange(ROWS) % 2 > 0, "a", "b")
EASE = RANDOM.permutation(ROWS)
"""Which rows are answered rightly first: models differ on few rows, as trained ones do."""
STABLE = [[0.88 + 0.001 * i, 0.884 + 0.001 * i, 0.882 + 0.001 * i] for i in range(7)]
RUNS = (BaselineRun("baseline/t/seed-1", 0.9),)


def answers(accuracy, right=None):
    """Answers to all rows, right in a share of ``accuracy``, or where ``right`` is true."""
    right = round(accuracy * ROWS) > EASE if right is None else right
    other = np.where(GOLD == "a", "b", "a")
    return [Answer(str(g if r else o), float(r), 1.0, (str(g),)) for g, o, r in zip(GOLD, other, right, strict=True)]


def evaluated(mixture, *baselines, overlap=None, metric="Accuracy", other_seeds=STABLE, **changes):
    task = TaskDefinition(name="t", type="Classification", labels=("a", "b"), prompt="{text}", metric=metric)
    inputs = EvaluationInputs(
        task=task,
        answers=mixture,
        baselines=baselines,
        constant="a",
        overlap=np.zeros(ROWS, dtype=bool) if overlap is None else overlap,
        **{"declared": None, **changes},
    )
    return evaluate_task(inputs, other_seeds=other_seeds, threshold=0.99, rule="Point", seed=1)


@pytest.mark.parametrize("noisy", [[0.05, 0.12, 0.09], [0.40, 0.52, 0.33]])
def test_one_noisy_task_leaves_a_stable_one_its_verdict(noisy):
    own = answers(0.91), answers(0.905), answers(0.91), answers(0.9075)
    before, after = evaluated(*own), evaluated(*own, other_seeds=[*STABLE, noisy])
    assert (before.verdict, after.verdict) == ("Qualified", "Qualified")
    assert after.interval == pytest.approx(before.interval, abs=1e-4)
    assert after.seed_deviation < 0.005
    assert after.degrees_of_freedom > 2


def test_a_noisy_task_keeps_its_own_variance():
    verdict = evaluated(answers(0.62), answers(0.5625), answers(0.6875), answers(0.61))
    assert verdict.seed_deviation == pytest.approx(np.std([0.5625, 0.6875, 0.61], ddof=1), abs=0.002)
    assert verdict.cause in ("BaselineAtFloor", "IntervalTooWide")


def seeds(*accuracies):
    return [answers(accuracy) for accuracy in accuracies]


IMPROVING = {"still_improving": True}
OPEN = [
    # a sentence, the mixture, the baseline's seeds, what else is known, the verdict, who answers
    ("a baseline at its floor", answers(0.734), seeds(0.51), {}, "Inconclusive", "classification"),
    ("one seed of it is as good", answers(0.6), seeds(0.45, 0.6, 0.5), {}, "Inconclusive", "classification"),
    ("one seed of it is better", answers(0.6), seeds(0.45, 0.66, 0.5), {}, "Inconclusive", "baseline"),
    ("all at the floor", answers(0.52), seeds(0.51), {}, "Inconclusive", "baseline"),
    ("worse than a constant", answers(0.42), seeds(0.40), {}, "Inconclusive", "baseline"),
    ("still improving, surely better", answers(0.8), seeds(0.65), IMPROVING, "Qualified", "classification"),
    ("still improving, worse", answers(0.6), seeds(0.65), IMPROVING, "Inconclusive", "baseline"),
]


@pytest.mark.parametrize(
    ("sentence", "mixture", "baselines", "changes", "verdict", "served_by"), OPEN, ids=[row[0] for row in OPEN]
)
def test_an_open_verdict_serves_the_better_of_what_exists(sentence, mixture, baselines, changes, verdict, served_by):
    found = evaluated(mixture, *baselines, **changes)
    assert found.verdict == verdict
    assert route(found, "classification", RUNS).served_by == served_by


def test_a_mixture_is_used_where_a_ratio_means_nothing():
    constant = answers(0, GOLD == "a")  # a MatthewsCorrelation of 0
    found = evaluated(answers(0.75), constant, metric="MatthewsCorrelation")
    assert (found.verdict, found.ratio) == ("Inconclusive", None)
    assert found.advantage[0] > 0.3
    assert route(found, "classification", RUNS).served_by == "classification"


def leak(rows, mixture_right, baseline_right=0.9):
    """Both know the leaked rows by heart, and the mixture the others in a share of ``mixture_right``."""
    leaked = np.arange(ROWS) < rows
    return evaluated(
        answers(0, leaked | (mixture_right * ROWS > EASE)),
        answers(0, leaked | (baseline_right * ROWS > EASE)),
        overlap=leaked,
    )


@pytest.mark.parametrize("rows", [5, 212, 350])
def test_the_verdict_is_taken_without_leaked_rows_where_fifty_are_left(rows):
    found = leak(rows, 0.7)
    assert found.judged_without_overlap
    assert found.ratio_without_overlap < found.ratio
    assert found.verdict == "NotQualified"
    assert found.interval_without_overlap[0] <= found.ratio_without_overlap <= found.interval_without_overlap[1]
    assert found.interval[0] <= found.ratio <= found.interval[1], "the figures of all rows stand beside them"
    assert f"{rows} of 400 test rows are also in a train split" in found.reason


def test_leaked_rows_that_made_a_task_qualify_do_not():
    with_rows = leak(340, 0.88)
    assert with_rows.ratio >= 0.99
    assert (with_rows.verdict, with_rows.judged_without_overlap) == ("NotQualified", True)


@pytest.mark.parametrize("rows", [351, 399])
def test_with_too_few_others_the_verdict_is_by_all_rows_and_says_so(rows):
    found = leak(rows, 0.9)
    assert not found.judged_without_overlap
    assert found.ratio_without_overlap is not None
    assert found.interval_without_overlap is None
    assert not found.confirmed
    assert "are too few to judge by" in found.reason


@pytest.mark.parametrize("share", [0.95, 0.5])
def test_without_any_other_row_nothing_is_known_and_the_baseline_answers(share):
    """Even where the shared model knows the leaked rows better by heart."""
    leaked = np.ones(ROWS, dtype=bool)
    found = evaluated(answers(0.95), answers(share), overlap=leaked)
    assert (found.verdict, found.cause, found.confirmed) == ("Inconclusive", "LeakedTestRows", False)
    assert "all 400 test rows are also in a train split" in found.reason
    assert (found.ratio_without_overlap, found.judged_without_overlap) == (None, False)
    decision = route(found, "classification", RUNS)
    assert (decision.served_by, decision.cause) == ("baseline", "LeakedTestRows")


@pytest.mark.parametrize("rows", [0, 4])
def test_up_to_one_percent_changes_nothing(rows):
    found = leak(rows, 0.9)
    assert (found.judged_without_overlap, found.ratio_without_overlap) == (False, None)
    assert "train split" not in found.reason


def test_a_declared_score_is_compared_too():
    found = evaluated(answers(0.8), declared=0.5)
    assert (found.verdict, found.advantage[0] > 0.2) == ("Inconclusive", True)
    assert route(found, "classification", ()).served_by == "classification"
    assert route(evaluated(answers(0.8)), "classification", ()).served_by is None, "nothing to compare with"
