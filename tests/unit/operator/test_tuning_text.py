"""Which weights a group trained, in words."""

from __future__ import annotations

import pytest

from multitask_api.resource.tuning import Tuning
from multitask_operator.report.build import build_report
from multitask_operator.report.html import render
from multitask_operator.report.tuning_text import tuning_text
from support.graph_builders import all_done, graph_of, model, task

SERVED_AS = ", α 32, on all projections; each task is served as a LoRA of rank"
CASES = [
    ({"method": "Full"}, 3, "Full: all weights"),
    ({}, 3, "LoRA of rank 16, α 32, on all projections"),
    (
        {"rank": 8, "alpha": 4, "targetModules": ["q_proj", "v_proj"]},
        1,
        "LoRA of rank 8, α 4, on q_proj, v_proj",
    ),
    (
        {"method": "CGCLoRA", "rank": 16},
        3,
        f"CGC-LoRA: 4 experts of rank 4 (1 common, 1 for each task){SERVED_AS} 8",
    ),
    (
        {"method": "CGCLoRA", "rank": 16, "commonExperts": 2, "specificExperts": 0, "expertRank": 3, "gate": "Uniform"},
        3,
        f"CGC-LoRA: 2 experts of rank 3 (2 common, without a gate){SERVED_AS} 6",
    ),
    ({"rank": 4, "useRslora": True}, 2, "LoRA of rank 4, α 32 / √r, on all projections"),
    ({"method": "CGCLoRA", "rank": 16}, 1, "LoRA of rank 16, α 32, on all projections"),
]


@pytest.mark.parametrize(("tuning", "tasks", "text"), CASES, ids=[case[2] for case in CASES])
def test_the_tuning_of_a_group_in_words(tuning: dict, tasks: int, text: str) -> None:
    assert tuning_text(Tuning.model_validate(tuning), [f"t{index}" for index in range(tasks)]) == text


def test_the_report_says_what_each_group_trained() -> None:
    resource = model(task("urgency"), task("intent"), tuning={"method": "CGCLoRA", "rank": 9})
    report = build_report(resource, graph_of(resource, all_done(resource)), {})
    [group] = report.groups
    assert group.tuning == tuning_text(resource.spec.tuning, group.tasks)
    assert group.tuning.startswith("CGC-LoRA: 3 experts of rank 3 ")
    assert f"<p>{group.tuning}." in render(report)
