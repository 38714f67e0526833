"""What a study foretells before it runs: stages, shares, cost."""

from __future__ import annotations

from dataclasses import replace

import pytest

from multitask_api.stage_io.manifest import RowSample
from multitask_api.stage_io.parameters import TrainParameters
from multitask_operator.planner.estimate import measured_speeds
from multitask_operator.planner.stage_costs import Speed
from multitask_operator.study.forecast import arm_counts, cost_of, stage_counts
from support.simulated_study import BATCH_ROWS, SPEED, SimulatedStudy, study_document

FOUR_ARMS = study_document(totalSteps=2000)
LISTED = study_document(
    seeds=2,
    totalSteps=2000,
    arms=[
        {"name": "as-it-is"},
        {"name": "lora", "spec": {"tuning": {"method": "LoRA", "rank": 8}}},
        {"name": "cgc", "spec": {"tuning": {"method": "CGCLoRA", "rank": 8}}},
        {"name": "pre-trained", "spec": {"pretraining": {"maxSteps": 70}}},
        {"name": "affinity", "spec": {"filtering": {"strategy": "Affinity"}}},
    ],
)


def counts(study):
    return {item.kind: item for item in stage_counts(study.graphs(preview=True).of_runs)}


def cost(study):
    return cost_of(study.graphs(preview=True), "no host", lambda _model: None)


def test_every_run_is_foretold_at_the_speed_of_its_tuning_method():
    arms = [
        {"name": "full"},
        {"name": "lora", "spec": {"tuning": {"method": "LoRA"}}},
        {"name": "cgc", "spec": {"tuning": {"method": "CGCLoRA"}}},
    ]
    study = SimulatedStudy(study_document(arms=arms, seeds=1, totalSteps=2000))
    study.run(until="filter")
    graphs = study.graphs(preview=True)
    measured = measured_speeds(graphs.done_nodes().values(), None)
    assert {method: found.tokens_per_second for method, found in measured.items()} == {
        method: SPEED[method] for method in ("Full", "LoRA")
    }, "the baselines of CGC-LoRA are of LoRA"
    found = cost_of(graphs, None, lambda model: Speed(SPEED[model.spec.tuning.method], "as asked"))
    assert list(dict.fromkeys(stage.speed for stage in found.stages)) == [
        measured["Full"], measured["LoRA"], Speed(SPEED["CGCLoRA"], "as asked"),
    ]  # fmt: skip
    assert found.speed is None
    assert found.seconds == pytest.approx(sum(stage.seconds or 0 for stage in found.stages))


def test_rows_are_as_long_as_their_text_before_any_run_has_measured_them():
    graphs = SimulatedStudy(FOUR_ARMS).graphs(preview=True)
    unread = cost_of(graphs, None, lambda _model: None)
    rows = {task.name: RowSample(rows=9, is_complete=True, tokens=16.0) for task in graphs.targets[0].model.spec.tasks}
    targets = [replace(item, resolved=item.resolved.model_copy(update={"rows": rows})) for item in graphs.targets]
    found = cost_of(replace(graphs, targets=tuple(targets)), None, lambda _model: None)
    assert found.lengths.startswith("estimated from the text of rows and prompts")
    assert (found.steps, found.tokens) == (unread.steps, 16 * unread.rows)


@pytest.mark.parametrize("document", [FOUR_ARMS, LISTED], ids=["a grid", "a list"])
def test_what_is_shared_is_foretold_before_any_digest_is_known(document):
    study = SimulatedStudy(document)
    before = counts(study)
    assert not any(item.cached for item in before.values())
    ran = study.run()
    after = counts(study)
    for kind, item in after.items():
        assert item.will_run == 0
        assert item.cached == item.results == sum(name.split("/")[0] == kind for name in ran), kind
    for kind in ("prepare", "base", "baseline", "gradients", "affinity"):
        if kind in after:
            assert before[kind].results == after[kind].results, kind
    shared_kinds = before.keys() & {"filter", "high-resource", "mixture"}
    assert all(before[kind].results >= after[kind].results for kind in shared_kinds - {"mixture"})


def test_arms_that_agree_in_base_and_tuning_share_their_baselines():
    baselines = {item.kind: item for item in stage_counts(SimulatedStudy(LISTED).graphs(preview=True).of_runs)}
    # Full, plain LoRA of rank 8 (that of CGC-LoRA too), and Full on the pre-trained base: of four tasks each.
    assert (baselines["baseline"].uses, baselines["baseline"].results) == (2 * 5 * 4, 3 * 4)
    assert baselines["base"].results == 2
    arms = {item.arm: item for item in arm_counts(SimulatedStudy(LISTED).graphs(preview=True).of_runs)}
    assert arms["lora"].shared == 4 + 1 + 4 + 1, "with CGC-LoRA also the filter"
    assert arms["pre-trained"].shared == 4


def test_the_cost_is_of_each_stage_once_and_falls_as_stages_get_done():
    study = SimulatedStudy(FOUR_ARMS)
    whole = cost(study)
    runs, baselines = 12 * 2000, 4 * study.resource.spec.stages.baseline.max_steps
    groups = 2  # of Type: two mixtures may round up
    assert baselines + runs <= whole.steps <= baselines + runs + 6 * groups
    assert whole.rows == whole.steps * BATCH_ROWS
    study.run(until="mixture")
    left = [
        node.parameters.max_steps
        for target in study.graphs().of_runs
        for node in target.graph.of_kind("mixture")
        if isinstance(node.parameters, TrainParameters)
    ]
    assert cost(study).steps == sum(left) > 0
    study.run()
    assert (cost(study).steps, cost(study).rows) == (0, 0)


def test_without_a_total_the_cost_is_an_upper_bound():
    study = SimulatedStudy(study_document())
    foretold = cost(study).steps
    study.run()
    spent = sum(
        node.parameters.max_steps
        for node in {
            (node.name, node.digest): node for target in study.graphs().of_runs for node in target.graph.nodes
        }.values()
        if isinstance(node.parameters, TrainParameters)
    )
    assert foretold >= spent
