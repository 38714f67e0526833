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
