"""What the runs of a study share, how long they are, and what starts when."""

from __future__ import annotations

from dataclasses import replace

import pytest

from multitask_api.stage_io.parameters import TrainParameters
from multitask_api.stages import NodeState
from multitask_operator.planner import Capacity, PlannerInput, Running
from multitask_operator.study.graphs import done_keys, keys_of
from multitask_operator.study.results import training_of
from multitask_operator.study.schedule import merged, plan_targets
from support.graph_builders import GB, VERSIONS, failed, resolved, task
from support.simulated_study import BATCH_ROWS, SATURATION, SimulatedStudy, model_document, study_document

SINGLE = [f"baseline/{name}/seed-17" for name in ("urgency", "intent", "escalate", "reply")]
PREPARED = [f"prepare/{name}" for name in ("urgency", "intent", "escalate", "reply")]
SHARED = [*PREPARED, "base", *SINGLE]


def steps_of(graph):
    return sum(
        node.parameters.max_steps
        for node in graph.nodes
        if isinstance(node.parameters, TrainParameters) and node.kind in ("high-resource", "mixture")
    )


def test_what_comes_before_stage_2_runs_once_for_all_runs():
    ran = SimulatedStudy().run()
    assert sorted(ran[: len(SHARED)]) == sorted(SHARED)
    assert not set(ran[len(SHARED) :]) & set(SHARED)
    by_kind = {kind: sum(name.split("/")[0] == kind for name in ran) for kind in ("filter", "mixture", "bundle")}
    # Of three seeds; Type has one mixture, its generation is answered by a baseline. A filter for each arm, and that
    # of the first arm without a study, which says how long all are.
    assert by_kind == {"filter": 4 + 1, "mixture": 12, "bundle": 12}
    assert not {"export", "verify", "ledger"} & {name.split("/")[0] for name in ran}


def test_a_second_call_has_nothing_to_do():
    study = SimulatedStudy()
    assert study.run()
    assert study.graphs().finished
    assert study.run() == []


def test_before_the_baselines_are_done_nothing_else_of_a_run_is_planned():
    study = SimulatedStudy()
    study.run(until="filter")
    graphs = study.graphs()
    assert graphs.total_steps is None
    assert not graphs.finished
    assert all(target.graph.finished for target in graphs.of_runs)
    (first,) = [target for target in graphs.targets if target.run is None]
    assert [node.name for node in first.graph.nodes if node.state is NodeState.READY] == ["filter"]


def test_steps_are_those_of_the_first_arm_by_default():
    study = SimulatedStudy()
    study.run()
    chosen = sum(step for _, step in SATURATION.values())
    first = study.graphs().of_runs[0].graph
    assert study.graphs().total_steps == chosen + steps_of(first) - (chosen - SATURATION["reply"][1])


@pytest.mark.parametrize("fields", [{}, {"totalSteps": 700}, {"totalSteps": 2500}])
def test_every_arm_has_the_same_rows_whatever_its_groups_and_stages(fields):
    arms = [
        {"name": "type"},
        {"name": "one-group", "spec": {"filtering": {"strategy": "None"}}},
        {"name": "taxonomy", "spec": {"filtering": {"strategy": "Taxonomy"}}},
        {"name": "without-stage-2", "spec": {"stages": {"highResource": {"enabled": False}}}},
        {"name": "long-stage-2", "spec": {"stages": {"highResource": {"minSaturationSteps": 800}}}},
        {"name": "lora", "spec": {"tuning": {"method": "LoRA"}}},
    ]
    tasks = [task("urgency", taxonomy="Ordinal"), task("intent", taxonomy="MultiClass")]
    tasks += [task("escalate", taxonomy="MultiClass"), task("reply", "Generation")]
    study = SimulatedStudy(study_document(arms=arms, seeds=1, **fields), model_document(*tasks))
    study.run()
    graphs = study.graphs()
    assert graphs.total_steps == fields.get("totalSteps", graphs.total_steps)
    rows = {target.run.arm.name: training_of(target.graph, BATCH_ROWS) for target in graphs.of_runs if target.run}
    assert {name: sum(item.rows.values()) for name, item in rows.items()} == dict.fromkeys(
        rows, (graphs.total_steps or 0) * BATCH_ROWS
    )
    assert all(set(item.rows) == set(SATURATION) for item in rows.values())
    alone = SATURATION["reply"][1] * BATCH_ROWS
    assert rows["type"].rows["reply"] == alone, "its baseline answers"
    assert rows["one-group"].rows["reply"] != alone
    kinds = {target.run.arm.name: target.graph.of_kind("high-resource") for target in graphs.of_runs if target.run}
    assert any(node.state is NodeState.DONE for node in kinds["long-stage-2"])
    assert not any(node.state is NodeState.DONE for node in kinds["without-stage-2"])


def test_every_mixture_is_validated_equally_often():
    study = SimulatedStudy(study_document(totalSteps=4000, seeds=1))
    study.run()
    mixtures = [node for target in study.graphs().of_runs for node in target.graph.of_kind("mixture")]
    parameters = [node.parameters for node in mixtures if isinstance(node.parameters, TrainParameters)]
    assert {item.optimisation.validations for item in parameters} == {20}
    assert len({item.max_steps for item in parameters}) > 1


def test_a_task_that_failed_its_declared_baseline_gets_none_trained():
    declared = task("urgency") | {"baseline": {"score": 0.99, "saturationSteps": 300}}
    model = model_document(declared, task("intent"), task("escalate"), task("reply", "Generation"))
    study = SimulatedStudy(model=model, score=lambda *_: 0.2)
    assert "baseline/urgency/seed-17" not in study.run()
    assert study.graphs().finished


def test_affinity_is_one_of_the_strategies():
    grid = {"filtering.strategy": {"values": ["Type", "Affinity"]}}
    study = SimulatedStudy(study_document(parameters=grid, seeds=1, totalSteps=3000))
    assert "affinity" in study.run()
    assert study.graphs().finished
    assert set(study.graphs().of_runs[1].graph.groups) == {"classification", "classification-escalate", "generation"}


def planned(study, running=(), cores=2, processes=1000, failures=()):
    """The stages that start, with the run that each is started for; and the plan of all."""
    given = PlannerInput(
        resolved=resolved(study.resource),
        manifests=study.manifests,
        versions=VERSIONS,
        capacity=Capacity(cores, 64 * GB, processes),
        running=tuple(Running(stage, digest, 0.0) for stage, digest in running),
        failures=tuple(failures),
    )
    plans = plan_targets(study.graphs().targets, given, 100.0)
    assert not [stop for plan in plans for stop in plan.stops]
    starts = [
        (start.key, target.run.name if target.run else None)
        for target, plan in zip(study.graphs().targets, plans, strict=True)
        for start in plan.starts
    ]
    return starts, merged(plans, is_running=bool(running))


def test_a_shared_stage_is_started_once():
    study = SimulatedStudy()
    starts, plan = planned(study, cores=64)
    assert sorted(key[0] for key, _ in starts) == sorted(PREPARED)
    assert not plan.finished
    running = [key for key, _ in starts]
    starts, plan = planned(study, running, cores=64)
    assert starts == []
    assert not plan.finished


def mixtures(study):
    return [
        (node.name, node.digest)
        for target in study.graphs().of_runs
        for node in target.graph.of_kind("mixture")
        if node.state is NodeState.READY
    ]


def test_mixtures_of_several_arms_run_beside_each_other_the_first_arm_first():
    study = SimulatedStudy(study_document(totalSteps=2000))
    study.run(until="mixture")
    starts, _ = planned(study)
    assert [key[0] for key, _ in starts] == ["mixture/classification"] * 2
    assert [run for _, run in starts] == [
        "strategy=Type,temperature=1, seed 17",
        "strategy=Type,temperature=2, seed 17",
    ]
    ready = mixtures(study)
    assert len(ready) == len(set(ready)) == 12
    starts, plan = planned(study, [ready[0]])
    assert [key for key, _ in starts] == [ready[1]]
    starts, plan = planned(study, ready[:2])
    assert starts == [], "the machine is full"
    assert not plan.finished
    assert planned(study, processes=1)[0][0][0] == ready[0]


def test_when_one_arm_fails_the_others_go_on_and_then_it_is_over():
    study = SimulatedStudy(study_document(totalSteps=2000))
    study.failing = lambda node, target: (
        node.kind == "mixture" and target.run is not None and (target.run.arm.name == "strategy=Type,temperature=1")
    )
    study.run()
    assert len(study.failures) == 3
    starts, plan = planned(study, failures=study.failures)
    assert starts == []
    assert plan.finished
    assert len(plan.failed) == 3
    assert sum(target.graph.finished for target in study.graphs().of_runs) == 9


def test_a_failure_that_passes_is_waited_for():
    study = SimulatedStudy()
    node = next(node for node in study.graphs().targets[0].graph.nodes if node.name == "prepare/reply")
    starts, plan = planned(study, cores=64, failures=[failed(node, "Retryable", when=98.0)])
    assert "prepare/reply" not in [key[0] for key, _ in starts]
    assert plan.requeue_after == pytest.approx(3.0)


def test_every_stage_is_counted_once_in_the_graph_that_progress_is_shown_of():
    study = SimulatedStudy(study_document(totalSteps=2000))
    study.run()
    _, plan = planned(study)
    assert plan.finished
    keys = set().union(*(keys_of(target.graph) for target in study.graphs().targets))
    assert {(node.name, node.digest) for node in plan.graph.nodes if node.digest is not None} == keys
    assert keys == set().union(*(done_keys(target.graph) for target in study.graphs().targets))
    assert replace(plan, actions=()).graph.finished
