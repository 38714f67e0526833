"""As what a result is served, before the export and after it."""

from __future__ import annotations

import json

import pytest
import yaml

from multitask_api.resource.parsing import check
from multitask_api.stage_io.results import ServedBy
from multitask_api.stages import NodeState
from multitask_operator.cli.main import invoke
from multitask_operator.report.served_form import served_as
from support.graph_builders import all_done, graph_of, model, task
from support.simulated_stages import SimulatedStages, document
from support.simulated_stages import task as simulated_task

TWO_GROUPS = (task("urgency"), task("intent"), task("reply", "Generation"))
ONE_GROUP = TWO_GROUPS[:2]
LORA = {"method": "LoRA", "rank": 8}
AFFINITY = {"filtering": {"strategy": "Affinity"}}
FOUND = "for each group, which the stage affinity finds"
OTHERS = "and one more for each task that does not qualify"


@pytest.mark.parametrize(
    ("tasks", "tuning", "expected"),
    [
        (
            TWO_GROUPS,
            {"method": "Full"},
            "2 whole models (method Full), and one more for each task that does not qualify",
        ),
        (TWO_GROUPS, LORA, "one base with 2 adapters, and one more for each task that does not qualify"),
        (
            ONE_GROUP,
            LORA,
            "one model, the only adapter merged into the base, if every task qualifies; else one base with adapters",
        ),
        (
            TWO_GROUPS,
            {"method": "CGCLoRA", "rank": 6},
            "one base with 3 adapters, one a task",
        ),
    ],
)
def test_before_the_export_it_is_what_the_spec_leads_to(tasks, tuning, expected):
    resource = model(*tasks, tuning=tuning)
    assert served_as(resource.spec, graph_of(resource)) == expected


@pytest.mark.parametrize(
    ("method", "before", "after"),
    [
        (LORA, f"one base with an adapter {FOUND}, {OTHERS}", f"one base with 3 adapters, {OTHERS}"),
        (
            {"method": "Full"},
            f"a whole model (method Full) {FOUND}, {OTHERS}",
            f"3 whole models (method Full), {OTHERS}",
        ),
        ({"method": "CGCLoRA", "expertRank": 2}, *["one base with 3 adapters, one a task"] * 2),
    ],
)
def test_under_affinity_it_goes_by_the_groups_that_are_found(method, before, after):
    source = document(*map(simulated_task, ("urgency", "intent", "reply")), tuning=method, **AFFINITY)
    stages, spec = SimulatedStages(opposed=(("urgency", "intent"),)), check(source).spec
    assert served_as(spec, stages.graph(source)) == before
    while not stages.graph(source).groups:
        stages.finish(next(node for node in stages.graph(source).nodes if node.state is NodeState.READY))
    assert served_as(spec, stages.graph(source)) == after


def served(**by_task):
    return tuple(ServedBy(task=name, served_by="g", model=m, adapter=a, reason="r") for name, (m, a) in by_task.items())


@pytest.mark.parametrize(
    ("method", "tasks", "expected"),
    [
        (
            "LoRA",
            served(
                urgency=("base", "classification"), intent=("base", "baseline.intent"), reply=("base", "generation")
            ),
            "one base with 3 adapters, 1.5 MB",
        ),
        (
            "LoRA",
            served(urgency=("base", "classification"), intent=("base", "classification")),
            "one base with 1 adapter, 1.5 MB",
        ),
        (
            "LoRA",
            served(urgency=("classification", None), intent=("classification", None)),
            "one model, the only adapter merged into the base, 1.5 MB",
        ),
        (
            "Full",
            served(urgency=("classification", None), intent=("baseline.intent", None), reply=("generation", None)),
            "3 whole models (method Full), 1.5 MB",
        ),
    ],
)
def test_after_the_export_it_is_what_was_exported(method, tasks, expected):
    resource = model(*TWO_GROUPS, tuning={"method": method})
    done = all_done(resource, until="verify", export={"tasks": tasks, "models": {"m": 1_500_000}})
    assert served_as(resource.spec, graph_of(resource, done)) == expected


def test_the_plan_prints_it_and_has_it_in_its_json(tmp_path, capsys):
    file = tmp_path / "model.yaml"
    document = {"apiVersion": "multitask.dev/v1alpha1", "kind": "MultiTaskModel", "metadata": {"name": "desk"}}
    spec = {"baseModel": {"uri": "builtin://tiny"}, "tasks": list(TWO_GROUPS), "tuning": LORA}
    file.write_text(yaml.safe_dump({**document, "spec": spec}))
    for each in TWO_GROUPS:
        for split, source in each["data"].items():
            rows = [
                {"text": f"{split} {label}"} | ({"label": label} if "labels" in each else {"target": label})
                for label in "abc"
            ]
            path = tmp_path / source["uri"]
            path.parent.mkdir(exist_ok=True)
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = "one base with 2 adapters, and one more for each task that does not qualify"
    assert invoke(["plan", str(file)]) == 0
    assert f"served as: {words}\n" in capsys.readouterr().out
    assert invoke(["plan", str(file), "--output", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["servedAs"] == words


def test_an_export_that_promotes_nothing_says_so():
    resource = model(*ONE_GROUP)
    done = all_done(resource, until="verify", export={"promoted": False, "models": {}, "tasks": ()})
    assert served_as(resource.spec, graph_of(resource, done)) == "nothing new: the export promotes no revision"
