"""Who answers, as a table."""

from __future__ import annotations

import pytest

from multitask_api.stage_io.results import TaskVerdict
from multitask_trainer.evaluation.routing import BaselineRun, is_promoted, route, route_all

RUNS = (
    BaselineRun("baseline/t/seed-1", 0.80),
    BaselineRun("baseline/t/seed-2", 0.85),
    BaselineRun("baseline/t/seed-3", 0.85),
)

TABLE = [
    ("Qualified", RUNS, "classification", None),
    ("Qualified", (), "classification", None),
    ("NotQualified", RUNS, "baseline", "baseline/t/seed-2"),
    ("Inconclusive", RUNS, "baseline", "baseline/t/seed-2"),
    ("Inconclusive", RUNS[:1], "baseline", "baseline/t/seed-1"),
    ("NotQualified", (), None, None),
    ("NoBaseline", (), None, None),
]


def verdict(name, task="t"):
    return TaskVerdict(task=task, score=0.5, verdict=name, test_rows=10, reason="because")


@pytest.mark.parametrize(("name", "runs", "served_by", "stage"), TABLE)
def test_route(name, runs, served_by, stage):
    choice = route(verdict(name), "classification", runs)
    assert (choice.served_by, choice.stage) == (served_by, stage)
    assert choice.reason.startswith(f"{name}: because")


BETTER = [
    # a sentence, the verdict, what it knows, who answers
    ("surely better than all else", "Inconclusive", {"advantage": (0.08, 0.26)}, "classification"),
    ("at least as good", "Inconclusive", {"advantage": (0.0, 0.0)}, "classification"),
    ("better, and not surely", "Inconclusive", {"advantage": (-0.001, 0.3)}, "baseline"),
    ("not qualified is not served", "NotQualified", {"advantage": (0.08, 0.26)}, "baseline"),
    ("nothing to compare with", "NoBaseline", {"advantage": (0.08, 0.26)}, None),
    ("an older result, ratio 1.30 ± .12", "Inconclusive", {"interval": (1.18, 1.42), "ratio": 1.3}, "classification"),
    ("an older result, not surely", "Inconclusive", {"interval": (0.99, 1.42), "ratio": 1.2}, "baseline"),
    ("an older result below the floor", "Inconclusive", {"interval": (1.1, 1.3), "floor": 0.6}, "baseline"),
    (
        "an older one, a seed is better",
        "Inconclusive",
        {"interval": (1.1, 1.3), "baseline_scores": (0.55,)},
        "baseline",
    ),
]


@pytest.mark.parametrize(("sentence", "name", "known", "served_by"), BETTER, ids=[row[0] for row in BETTER])
def test_an_open_verdict_is_routed_to_what_is_surely_better(sentence, name, known, served_by):
    choice = route(verdict(name).model_copy(update=known), "classification", () if served_by is None else RUNS)
    assert choice.served_by == served_by
    if served_by == "classification":
        assert choice.cause == "SurelyBetter"
        assert "surely at least as good here as all else that could answer" in choice.reason
    else:
        assert choice.cause == name


def test_every_task_of_every_group_is_routed():
    verdicts = [verdict("NotQualified", "b"), verdict("Qualified", "a")]
    choices = route_all(verdicts, {"one": ["a"], "two": ["b"]}, {"b": RUNS})
    assert [(choice.task, choice.served_by) for choice in choices] == [("a", "one"), ("b", "baseline")]


@pytest.mark.parametrize(
    ("names", "promote", "expected"),
    [
        (["Qualified", "NotQualified"], "Qualified", True),
        (["Qualified", "NotQualified"], "AllQualified", False),
        (["Qualified", "NoBaseline"], "AllQualified", False),
        (["Qualified", "Qualified"], "AllQualified", True),
    ],
)
def test_promotion(names, promote, expected):
    assert is_promoted([verdict(name) for name in names], promote) is expected
