"""Under filtering.strategy Affinity the groups are results: what is planned before they are known, and after."""

from __future__ import annotations

from typing import Any

import pytest

from multitask_api.errors import InvalidResource
from multitask_api.resource.parsing import check
from multitask_api.stage_io.parameters import CheckParameters, FilterParameters
from multitask_api.stages.nodes import NodeState
from support.simulated_stages import SimulatedStages, changed, document, task

AFFINITY = {"filtering": {"strategy": "Affinity"}}
CHECKED = {"filtering": {"strategy": "Affinity", "diagnosis": {"check": True}}}
TASKS = [task("urgency"), task("intent"), task("spam"), task("reply")]


def names_of(stages: SimulatedStages, source: dict[str, Any], kind: str) -> list[str]:
    return [node.name for node in stages.graph(source).of_kind(kind)]


def test_no_stage_of_a_group_is_planned_before_the_groups_are_known() -> None:
    stages = SimulatedStages(opposed=(("urgency", "spam"),))
    source = document(*TASKS, **AFFINITY)
    graph = stages.graph(source)
    assert graph.groups == {}
    assert [node.name for kind in ("high-resource", "mixture", "evaluate") for node in graph.of_kind(kind)] == []
    assert graph.may_have("mixture/classification-spam")
    assert not graph.may_have("baseline/gone/seed-17")
    for name in ("filter", "bundle", "export", "verify", "ledger"):
        assert graph[name].state is NodeState.WAITING
        assert graph[name].digest is None
    assert not graph.finished


def test_the_groups_that_are_found_are_trained() -> None:
    stages = SimulatedStages(opposed=(("urgency", "spam"),))
    source = document(*TASKS, **AFFINITY)
    stages.run(source)
    graph = stages.graph(source)
    assert graph.finished
    assert graph.open_kinds == frozenset()
    expected = {"classification": ("urgency", "intent"), "classification-spam": ("spam",), "generation": ("reply",)}
    assert graph.groups == expected
    assert isinstance(graph["filter"].parameters, FilterParameters)
    assert graph["filter"].parameters.groups == expected
    assert names_of(stages, source, "mixture") == [f"mixture/{group}" for group in expected]
    assert graph["mixture/classification-spam"].state is NodeState.SKIPPED  # its baseline is the group's model


def test_where_nothing_is_opposed_affinity_runs_nothing_but_its_own_stages_after_type() -> None:
    stages = SimulatedStages()
    stages.run(document(*TASKS))
    assert stages.run(document(*TASKS, **AFFINITY)) == [*(f"gradients/{item['name']}" for item in TASKS), "affinity"]


def test_a_new_task_runs_its_own_gradients_and_what_changes_by_it() -> None:
    stages = SimulatedStages(opposed=(("urgency", "spam"),))
    few = [TASKS[0], TASKS[1], TASKS[3]]
    stages.run(document(*few, **AFFINITY))
    assert stages.run(document(*TASKS, **AFFINITY)) == [
        "prepare/spam",
        "baseline/spam/seed-17",
        "gradients/spam",
        "affinity",
        "filter",
        "bundle",  # no mixture: the new task is in a group of its own
        "evaluate/classification-spam",
        "export",
        "verify",
        "ledger",
    ]


def test_results_of_groups_stay_while_a_new_task_is_compared() -> None:
    stages = SimulatedStages()
    few = [TASKS[0], TASKS[1], TASKS[3]]
    stages.run(document(*few, **AFFINITY))
    graph = stages.graph(document(*TASKS, **AFFINITY))
    assert graph.groups == {}
    assert all(graph.may_have(stage) for stage, _ in stages.manifests)


@pytest.mark.parametrize(
    ("path", "value", "again"),
    [
        ("filtering.rows", 512, {"gradients/urgency", "affinity"}),
        ("training.maxLength", 512, {"gradients/urgency", "affinity"}),
        ("tuning.targetModules", ["q_proj"], {"gradients/urgency", "affinity"}),
        ("filtering.maxGroups", 2, {"affinity"}),
        ("tuning.rank", 4, set()),
        ("training.learningRate", 0.001, set()),
        ("filtering.diagnosis", {"check": False}, set()),
        ("stages.mixture.temperature", 3, set()),
    ],
)
def test_what_takes_gradients_again(path: str, value: Any, again: set[str]) -> None:
    stages = SimulatedStages()
    source = document(*TASKS, **AFFINITY)
    stages.run(source)
    ran = stages.run(changed(source, path, value))
    assert {name for name in ran if name in ("gradients/urgency", "affinity")} == again


CHECKS = [
    ("qualified", "Qualified", (("urgency", "intent"),), "urgency: it reaches the threshold"),
    ("not hurt", "NotQualified", (), "urgency: no task of its group hurts it by its gradients"),
    ("below, and hurt", "NotQualified", (("urgency", "intent"),), None),
]


@pytest.mark.parametrize(("verdict", "hurt", "skipped"), [row[1:] for row in CHECKS], ids=[row[0] for row in CHECKS])
def test_a_task_is_checked_if_it_is_below_and_hurt(verdict: str, hurt: Any, skipped: str | None) -> None:
    stages = SimulatedStages(verdicts={"urgency": verdict}, hurt=hurt)
    source = document(*TASKS, **CHECKED)
    ran = stages.run(source)
    node = stages.graph(source)["check/urgency"]
    assert (node.reason or None) == skipped
    assert ("check/urgency" in ran) is (skipped is None)
    if skipped is None:
        assert isinstance(node.parameters, CheckParameters)
        assert node.parameters.without == ("intent",)
        assert [item.name for item in node.parameters.tasks] == ["urgency", "intent", "spam"]
        assert node.parameters.max_steps == 25  # a quarter of the mixture's


def test_a_default_of_the_experts_that_is_written_out_checks_nothing_again() -> None:
    stages = SimulatedStages(verdicts={"urgency": "NotQualified"}, hurt=(("urgency", "intent"),))
    source = document(*TASKS, **CHECKED, tuning={"method": "CGCLoRA", "expertRank": 4})
    assert "check/urgency" in stages.run(source)
    assert stages.run(changed(source, "tuning.commonExperts", 1)) == []


def test_checks_wait_for_the_verdict_and_nothing_waits_for_them() -> None:
    stages = SimulatedStages()
    source = document(*TASKS, **CHECKED)
    assert all(node.state is NodeState.WAITING for node in stages.graph(source).of_kind("check"))
    stages.run(source)
    assert not [node.name for node in stages.graph(source).nodes if any("check/" in name for name in node.needs)]


INVALID = [
    ({"strategy": "Type", "maxGroups": 2}, "spec.filtering.maxGroups", "strategy is Type"),
    ({"rows": 128}, "spec.filtering.rows", "remove it"),
    ({"strategy": "Manual", "diagnosis": {"check": True}}, "spec.filtering.diagnosis", "Affinity"),
    ({"strategy": "Affinity", "maxGroups": 1}, "spec.filtering.maxGroups", "2 types of tasks"),
    ({"strategy": "Affinity", "rows": 8}, "spec.filtering.rows", "64"),
    ({"strategy": "Affinity", "diagnosis": {"chekc": True}}, "spec.filtering.diagnosis.chekc", ""),
]


@pytest.mark.parametrize(("filtering", "path", "text"), INVALID)
def test_a_wrong_setting_is_one_clear_error(filtering: dict[str, Any], path: str, text: str) -> None:
    with pytest.raises(InvalidResource) as raised:
        check(document(*TASKS, filtering=filtering))
    problems = [str(problem) for problem in raised.value.problems if str(problem).startswith(path)]
    assert len(problems) == 1
    assert text in problems[0]
