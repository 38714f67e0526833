"""Which stages run again after a change."""

from __future__ import annotations

from typing import Any

import pytest

from multitask_api.resource.parsing import check
from multitask_api.stage_io.parameters import TrainParameters
from multitask_api.stage_io.results import TaskVerdict
from multitask_api.stages.graph import build
from multitask_api.stages.nodes import NodeState
from multitask_api.stages.versions import VERSIONS
from support import graph_builders
from support.simulated_stages import SimulatedStages, changed, document, resolved, task

AFTER_FILTER = ["mixture/classification", "bundle", "evaluate/classification", "export", "verify", "ledger"]
ALL = [
    "prepare/urgency",
    "prepare/intent",
    "prepare/reply",
    "base",
    "baseline/urgency/seed-17",
    "baseline/intent/seed-17",
    "baseline/reply/seed-17",
    "filter",
    "high-resource/classification",
    "mixture/classification",
    "bundle",
    "evaluate/classification",
    "evaluate/generation",
    "export",
    "verify",
    "ledger",
]


def done() -> SimulatedStages:
    stages = SimulatedStages()
    stages.run(document())
    return stages


def test_a_first_run_runs_everything_once_and_skips_a_stage_two_without_tasks() -> None:
    stages = SimulatedStages()
    assert sorted(stages.run(document())) == sorted(ALL)
    graph = stages.graph(document())
    skipped = [node for node in graph.nodes if node.state is NodeState.SKIPPED]
    assert [(node.name, node.reason) for node in skipped] == [
        ("high-resource/generation", "chosen by the test"),
        ("mixture/generation", "reply is alone in its group: its baseline is the group's model"),
    ]
    assert graph.finished


def test_every_node_comes_after_what_it_needs() -> None:
    stages = SimulatedStages()
    while not (graph := stages.graph(document())).finished:
        names = [node.name for node in graph.nodes]
        for node in graph.nodes:
            assert all(names.index(needed) < names.index(node.name) for needed in node.needs), node.name
        stages.finish(next(node for node in graph.nodes if node.state is NodeState.READY))


def test_a_second_run_runs_nothing() -> None:
    assert done().run(document()) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("serving.replicas", 7),
        ("serving.pinnedRevision", "abc"),
        ("training.resources", {"limits": {"nvidia.com/gpu": 1}}),
        ("training.queueName", "team-b"),
        ("training.podTemplate", {"spec": {"nodeSelector": {"a": "b"}}}),
        ("training.maxParallelJobs", 1),
        ("training.nodes", 2),
        ("training.gpusPerNode", 0),
        ("suspend", True),
        ("storage", {"uri": "pvc://models/desk"}),
        ("credentials", [{"secretRef": {"name": "token"}}]),
        ("training.learningRate", 0.0002),  # the default, written out
        ("stages.mixture.temperature", 2),
        ("tasks.0.taxonomy", "Binary"),
        ("tasks.0.metric", "Accuracy"),
    ],
)
def test_a_change_that_affects_no_result_runs_nothing(path: str, value: Any) -> None:
    assert done().run(changed(document(), path, value)) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [("tuning.rank", 4), ("tuning.dropout", 0.5), ("tasks.0.taxonomy", "Ordinal"), ("tasks.0.language", "de")],
)
def test_a_change_of_a_field_that_no_stage_reads_runs_nothing(path: str, value: Any) -> None:
    """Without adapters there is no rank; under Type a taxonomy groups nothing; labels have no language."""
    full = changed(document(), "tuning", {"method": "Full"})
    stages = SimulatedStages()
    stages.run(full)
    assert stages.run(changed(full, path, value)) == []


def test_the_same_rows_elsewhere_are_the_same_rows() -> None:
    stages = done()
    stages.contents = {
        f"elsewhere/{split}.jsonl": f"urgency/{split}.jsonl" for split in ("train", "validation", "test")
    }
    moved = {split: {"uri": f"elsewhere/{split}.jsonl"} for split in ("train", "validation", "test")}
    assert stages.run(changed(document(), "tasks.0.data", moved)) == []


def test_a_new_task_runs_its_prepare_its_baseline_and_the_stages_that_depend_on_it() -> None:
    stages = done()
    more = document(task("urgency"), task("intent"), task("reply"), task("spam"))
    assert stages.run(more) == [
        "prepare/spam",
        "baseline/spam/seed-17",
        "filter",
        "mixture/classification",  # not the base, not stage 2, nothing of the other group
        "bundle",
        "evaluate/classification",
        "export",
        "verify",
        "ledger",
    ]


def test_a_new_task_among_the_high_resource_ones_runs_stage_two_again() -> None:
    stages = done()
    stages.high_resource = ("intent", "spam")
    ran = stages.run(document(task("urgency"), task("intent"), task("reply"), task("spam")))
    assert "high-resource/classification" in ran
    assert "base" not in ran


@pytest.mark.parametrize(
    ("planned", "budget"),
    [pytest.param(288, 288, id="by the filter"), pytest.param(None, 3000, id="not by the filter: maxSteps")],
)
def test_the_filter_bounds_stage_two(planned: int | None, budget: int) -> None:
    stages = SimulatedStages(high_resource_steps=planned)
    stages.run(document())
    parameters = stages.graph(document())["high-resource/classification"].parameters
    assert isinstance(parameters, TrainParameters)
    assert parameters.max_steps == budget


def test_a_removed_task_retrains_only_its_group() -> None:
    stages = SimulatedStages()
    stages.run(document(task("urgency"), task("intent"), task("spam"), task("reply")))
    assert stages.run(document(task("intent"), task("urgency"), task("reply"))) == [
        "filter",
        "mixture/classification",
        "bundle",
        "evaluate/classification",
        "export",
        "verify",
        "ledger",
    ]


@pytest.mark.parametrize(
    ("sentence", "path", "value", "ran"),
    [
        ("another threshold only evaluates again", "qualification.threshold", 0.95,
         ["evaluate/classification", "evaluate/generation", "export", "verify", "ledger"]),
        ("another rule of promotion", "qualification.promote", "AllQualified", ["export", "verify", "ledger"]),
        ("another budget of stage 2", "stages.highResource.maxSteps", 9,
         ["filter", "high-resource/classification", *AFTER_FILTER]),
        ("another seed of the mixtures", "stages.mixture.seed", 5,
         ["mixture/classification", "bundle", "evaluate/classification", "export", "verify", "ledger"]),
    ],
)  # fmt: skip
def test_the_stages_that_run_again_after_a_change(sentence: str, path: str, value: Any, ran: list[str]) -> None:
    again = done().run(changed(document(), path, value))
    assert again == ran, sentence


@pytest.mark.parametrize(
    ("path", "value", "also", "never"),
    [
        (
            "tasks.0.labels",
            ["b", "a"],
            {"prepare/urgency", "baseline/urgency/seed-17"},
            {"baseline/intent/seed-17", "base"},
        ),
        (
            "tasks.0.prompt",
            "{text}!",
            {"prepare/urgency", "baseline/urgency/seed-17"},
            {"baseline/intent/seed-17", "base"},
        ),
        ("tuning.rank", 8, {"baseline/reply/seed-17", "mixture/classification"}, {"prepare/urgency", "base"}),
        (
            "training.batchRows",
            8,
            {"baseline/reply/seed-17", "mixture/classification", "filter"},
            {"prepare/urgency", "base"},
        ),
        ("training.seed", 18, {"base", "baseline/reply/seed-18"}, {"prepare/urgency"}),
        ("baseModel.uri", "builtin://tiny", {"base", "baseline/reply/seed-17"}, {"prepare/urgency"}),
        ("baseModel.revision", "2", {"base", "baseline/reply/seed-17"}, {"prepare/urgency"}),
        ("stages.baseline.seeds", 2, {"baseline/reply/seed-18"}, {"baseline/reply/seed-17", "base"}),
        ("stages.mixture.learningRate", 1e-3, {"mixture/classification"}, {"filter", "baseline/reply/seed-17"}),
        ("stages.baseline.learningRate", 1e-3, {"baseline/reply/seed-17"}, {"base", "prepare/reply"}),
        ("stages.baseline.maxSteps", 9, {"baseline/reply/seed-17"}, {"base", "prepare/reply"}),
        ("filtering", {"strategy": "None"}, {"mixture/all", "evaluate/all"}, {"base", "baseline/reply/seed-17"}),
        ("pretraining", {"maxSteps": 9}, {"base", "baseline/reply/seed-17"}, {"prepare/urgency"}),
    ],
)
def test_stages_that_a_change_runs_and_stages_that_it_does_not_run(
    path: str, value: Any, also: set[str], never: set[str]
) -> None:
    ran = set(done().run(changed(document(), path, value)))
    assert also <= ran
    assert not never & ran


def test_a_learning_rate_of_pretraining_makes_another_base_and_the_same_one_does_not() -> None:
    stages, source = SimulatedStages(), changed(document(), "pretraining", {"maxSteps": 9})
    stages.run(source)
    assert "base" in stages.run(changed(source, "pretraining.learningRate", 1e-5))
    base = stages.run(changed(source, "training.learningRate", 1e-5))
    assert "base" in base


def test_a_weight_runs_the_mixture_of_its_group_again_and_a_weight_of_1_nothing() -> None:
    stages = done()
    assert stages.run(changed(document(), "tasks.0.weight", 1)) == []
    ran = stages.run(changed(document(), "tasks.0.weight", 2))
    assert {"filter", "mixture/classification"} <= set(ran)
    assert not {"base", "mixture/generation", "high-resource/classification"} & set(ran)
    assert not [name for name in ran if name.startswith(("prepare/", "baseline/"))]


def test_another_gguf_file_of_a_repository_is_another_base() -> None:
    stages, source = SimulatedStages(), changed(document(), "baseModel", {"uri": "hf://org/name", "ggufFile": "a.gguf"})
    stages.run(source)
    assert stages.run(source) == []
    assert "base" in stages.run(changed(source, "baseModel.ggufFile", "b.gguf"))


def test_changed_rows_run_their_task_again_but_not_the_base_and_other_baselines() -> None:
    stages = done()
    stages.contents = {"urgency/train.jsonl": "more rows"}
    ran = stages.run(document())
    assert ran[:2] == ["prepare/urgency", "baseline/urgency/seed-17"]
    assert not {"base", "baseline/intent/seed-17", "baseline/reply/seed-17", "evaluate/generation"} & set(ran)


def test_changed_test_rows_do_not_run_stages_that_never_read_them() -> None:
    stages = done()
    stages.contents = {"urgency/test.jsonl": "other test rows"}
    ran = stages.run(document())
    assert "prepare/urgency" in ran
    assert "evaluate/classification" in ran
    assert "high-resource/classification" not in ran


def test_the_base_is_created_again_only_on_request_or_for_another_corpus() -> None:
    stages = SimulatedStages()
    source = document(pretraining={"maxSteps": 9, "corpus": [{"uri": "corpus.jsonl"}]})
    stages.run(source)
    assert "base" not in stages.run(changed(source, "tasks.0.prompt", "{text}?"))
    assert "base" in stages.run(changed(source, "pretraining.refresh", "now"))
    stages.contents = {"corpus.jsonl": "more text"}
    assert "base" in stages.run(source)


def test_a_base_that_is_a_folder_is_identified_by_its_files() -> None:
    stages = SimulatedStages()
    source = document(baseModel={"uri": "bases/chat"})
    stages.run(source)
    stages.contents = {"elsewhere/chat": "bases/chat"}
    assert stages.run(changed(source, "baseModel.uri", "elsewhere/chat")) == []
    stages.contents = {"bases/chat": "other weights"}
    again = stages.run(source)
    assert {"base", "baseline/reply/seed-17"} <= set(again)
    assert "prepare/reply" not in again


def test_a_base_whose_files_are_unknown_has_no_digest() -> None:
    spec = check(document(baseModel={"uri": "bases/chat"})).spec
    known = resolved(spec, {})
    lacking = known.model_copy(update={"data": {uri: at for uri, at in known.data.items() if uri != "bases/chat"}})
    assert build("desk", spec, lacking, {}, VERSIONS)["base"].digest is None


def test_a_declared_baseline_is_not_trained_unless_the_task_fails_against_it() -> None:
    source = document(task("urgency", baseline={"score": 0.9, "saturationSteps": 50}), task("intent"))
    stages = SimulatedStages()
    assert "baseline/urgency/seed-17" not in stages.run(source)
    failed = SimulatedStages(verdicts={"urgency": "NotQualified"})
    ran = failed.run(source)
    assert ran.index("evaluate/classification") < ran.index("baseline/urgency/seed-17") < ran.index("export")
    assert ran.count("evaluate/classification") == 1
    assert failed.run(source) == []


@pytest.mark.parametrize(("advantage", "trained"), [((0.1, 0.3), False), ((-0.1, 0.3), True), (None, True)])
def test_an_open_verdict_against_a_declared_score_trains_a_baseline_unless_the_mixture_answers(advantage, trained):
    tasks = (
        graph_builders.task("urgency", baseline={"score": 0.3, "saturationSteps": 50}),
        graph_builders.task("intent"),
    )
    resource = graph_builders.model(*tasks)
    verdicts = (
        TaskVerdict(task="urgency", score=0.7, verdict="Inconclusive", advantage=advantage, test_rows=9),
        TaskVerdict(task="intent", score=0.7, verdict="Qualified", test_rows=9),
    )
    manifests = graph_builders.all_done(resource, evaluate={"tasks": verdicts})
    graph = graph_builders.graph_of(resource, manifests)
    assert ("baseline/urgency/seed-17" in graph) is trained


def test_without_baselines_the_mixtures_have_no_reference() -> None:
    stages = SimulatedStages()
    ran = stages.run(document(stages={"baseline": {"enabled": False}}))
    assert not [name for name in ran if name.startswith("baseline/")]
    node = stages.graph(document(stages={"baseline": {"enabled": False}}))["mixture/generation"]
    assert node.parameters is not None
    assert node.parameters.to_json()["referenceScores"] == {}


def test_a_mixture_is_compared_with_the_mean_of_its_baselines() -> None:
    stages = done()
    parameters = stages.graph(document())["mixture/classification"].parameters
    assert parameters is not None
    assert parameters.to_json()["referenceScores"] == {"urgency": 0.8, "intent": 0.8}


def test_without_servers_the_graph_ends_at_the_export() -> None:
    stages = SimulatedStages()
    assert stages.run(document(), serve=False)[-1] == "export"
    assert stages.run(document()) == ["verify", "ledger"]


def test_before_anything_ran_only_the_prepare_stages_are_ready() -> None:
    stages = SimulatedStages()
    graph = stages.graph(document())
    assert [node.name for node in graph.nodes if node.state is NodeState.READY] == [
        "prepare/urgency",
        "prepare/intent",
        "prepare/reply",
    ]
    assert graph["base"].waits_for == ("prepare/urgency", "prepare/intent", "prepare/reply")
    assert graph["filter"].digest is None
    with pytest.raises(KeyError):
        graph["baseline/nobody/seed-17"]
    assert "filter" in graph


def test_undoing_a_change_reuses_the_earlier_results() -> None:
    stages = done()
    stages.run(changed(document(), "tuning.rank", 8))
    assert stages.run(document()) == []


ALONE = {
    "one task and no other group": document(task("reply")),
    "beside a group of two": document(),
    "several seeds": document(stages={"baseline": {"seeds": 3}}),
    "each task a group": document(
        task("urgency", group="a"),
        task("intent", group="b"),
        task("reply", group="c"),
        filtering={"strategy": "Manual"},
    ),
}


@pytest.mark.parametrize("source", ALONE.values(), ids=ALONE)
def test_a_task_alone_in_its_group_is_trained_once(source: Any) -> None:
    stages = SimulatedStages(high_resource=())
    ran = stages.run(source)
    graph = stages.graph(source)
    alone = [tasks[0] for tasks in graph["bundle"].parameters.to_json()["groups"].values() if len(tasks) == 1]  # type: ignore[union-attr, attr-defined]
    assert alone
    trained = [name for name in ran if name.startswith(("mixture", "high-resource"))]
    assert len(trained) == len(graph.of_kind("mixture")) - len(alone)
    stand_ins = [node.stand_in for node in graph.of_kind("mixture") if node.state is NodeState.SKIPPED]
    assert stand_ins == [f"baseline/{name}/seed-17" for name in alone]
    assert stages.run(source) == []


def test_of_several_seeds_the_best_on_validation_is_the_model_of_the_group() -> None:
    scores = {"baseline/reply/seed-17": 0.7, "baseline/reply/seed-18": 0.9, "baseline/reply/seed-19": 0.9}
    stages = SimulatedStages(validation=scores)
    source = document(stages={"baseline": {"seeds": 3}})
    stages.run(source)
    graph = stages.graph(source)
    assert graph["mixture/generation"].stand_in == "baseline/reply/seed-18"
    chosen = graph["baseline/reply/seed-18"].manifest
    assert chosen is not None
    assert (graph["bundle"].read_outputs or {})["mixture/generation#model"] == chosen.outputs["model"]


def test_the_bundle_waits_for_every_seed_of_a_task_that_is_alone() -> None:
    stages = SimulatedStages()
    source = document(task("reply"), stages={"baseline": {"seeds": 2}})
    while (graph := stages.graph(source))["baseline/reply/seed-17"].manifest is None:
        stages.finish(next(node for node in graph.nodes if node.state is NodeState.READY))
    assert graph["mixture/generation"].state is NodeState.WAITING
    assert set(graph["mixture/generation"].waits_for) == {
        "baseline/reply/seed-18",
        "filter",
        "high-resource/generation",
    }
    assert graph["bundle"].waits_for == ("mixture/generation",)


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(document(task("reply", baseline={"score": 0.9})), id="a declared baseline has no weights"),
        pytest.param(document(stages={"baseline": {"enabled": False}}), id="baselines are switched off"),
    ],
)
def test_without_a_trained_baseline_a_task_that_is_alone_gets_a_mixture(source: Any) -> None:
    assert "mixture/generation" in SimulatedStages().run(source)


def test_with_pre_training_on_the_tasks_text_overlap_is_counted_with_every_task_in_the_base() -> None:
    source = document(pretraining={"maxSteps": 9, "tasksText": True})
    stages = SimulatedStages()
    stages.run(source)
    reads = stages.graph(source)["evaluate/generation"].read_outputs or {}
    assert {name for name in reads if name.endswith("#train")} == {
        "prepare/urgency#train",
        "prepare/intent#train",
        "prepare/reply#train",
    }
    more = document(
        task("urgency"), task("intent"), task("reply"), task("spam"), pretraining=source["spec"]["pretraining"]
    )
    assert "evaluate/generation" not in stages.run(more)  # the base is kept: it has not seen the new task


def test_validations_space_those_of_stages_2_and_3_and_no_others() -> None:
    stages = SimulatedStages(high_resource_steps=30)
    source = changed(document(), "stages", {"validations": 8, "totalSteps": 130})
    stages.run(source)
    graph = stages.graph(source)
    parameters = {node.kind: node.parameters for node in graph.nodes if isinstance(node.parameters, TrainParameters)}
    validations = {kind: item.optimisation.validations for kind, item in parameters.items()}
    assert validations == {"baseline": None, "high-resource": 8, "mixture": 8}
    assert graph["filter"].parameters is not None
    assert graph["filter"].parameters.to_json()["totalSteps"] == 130
    again = {"filter", "high-resource/classification", *AFTER_FILTER}
    assert set(stages.run(document())) <= again, "baselines stay"
