"""``stages.mixture.start: Previous``: which mixture a mixture begins with, and that the choice stays what it was."""

from __future__ import annotations

from typing import Any

import pytest

from multitask_api.resource.parsing import check
from multitask_api.resource.tuning import Tuning
from multitask_api.stages.nodes import Node, NodeState
from multitask_api.stages.warm_start import FORM, starts, weights_form
from support.simulated_stages import Document, SimulatedStages, changed, document, task

NAME, STAGE2 = "mixture/classification", "high-resource/classification"
TWO = [task("urgency"), task("intent")]
THREE = [*TWO, task("spam")]
LORA = {"tuning": {"method": "LoRA", "rank": 8, "alpha": 16}}


def warm(*tasks: Document, **spec: Any) -> Document:
    return changed(document(*tasks, **spec), "stages.mixture.start", "Previous")


def mixture(stages: SimulatedStages, source: Document) -> Node:
    return stages.graph(source)[NAME]


def trained(*tasks: Document, **spec: Any) -> tuple[SimulatedStages, str]:
    """What a cold run of ``tasks`` leaves, and the digest of its mixture."""
    stages = SimulatedStages()
    source = document(*tasks, **spec)
    stages.run(source)
    digest = mixture(stages, source).digest
    assert digest is not None
    return stages, digest


def test_a_new_task_runs_its_baseline_and_the_mixture_that_begins_with_the_one_before() -> None:
    stages, before = trained(*TWO)
    source = warm(*THREE)
    assert [name for name in stages.run(source) if not name.startswith(("bundle", "evaluate", "export"))] == [
        "prepare/spam", "baseline/spam/seed-17", "filter", NAME, "verify", "ledger",
    ]  # fmt: skip
    node = mixture(stages, source)
    assert node.start is not None
    assert node.start.key == (NAME, before)
    assert node.start.reason == f"begins with {NAME} {before}, trained on intent, urgency"
    stage2 = stages.graph(source)[STAGE2]
    assert (stage2.state, stage2.reason) == (NodeState.SKIPPED, f"the mixture {node.start.reason}")


def test_the_start_is_known_before_anything_ran_and_stays_the_same_at_every_step() -> None:
    stages, before = trained(*TWO)
    source, seen = warm(*THREE), set()
    while not (graph := stages.graph(source)).finished:
        start = graph[NAME].start
        seen.add(start.key if start else None)
        assert graph[STAGE2].state is NodeState.SKIPPED
        stages.finish(next(node for node in graph.nodes if node.state is NodeState.READY))
    assert seen == {(NAME, before)}


@pytest.mark.parametrize(
    "later",
    [
        lambda stages, source: source,
        lambda stages, source: changed(source, "serving.replicas", 5),
        lambda stages, source: changed(source, "qualification.threshold", 0.5),
        lambda stages, source: changed(source, "stages.baseline.maxSteps", 4000),  # the default, written out
    ],
)
def test_what_is_finished_is_not_trained_again(later: Any) -> None:
    stages, _ = trained(*TWO)
    source = warm(*THREE)
    stages.run(source)
    digest = mixture(stages, source).digest
    again = mixture(stages, later(stages, source))
    assert (again.state, again.digest) == (NodeState.DONE, digest)


def test_what_is_finished_needs_what_it_began_with_no_more() -> None:
    stages, before = trained(*TWO)
    source = warm(*THREE)
    stages.run(source)
    kept = mixture(stages, source)
    del stages.manifests[NAME, before]
    assert stages.run(source) == []
    node = mixture(stages, source)
    assert node.digest == kept.digest
    assert node.start is not None
    assert node.start.key == (NAME, before)


def test_each_new_task_begins_with_the_mixture_before_and_a_removed_one_finds_its_own_again() -> None:
    stages, _ = trained(*TWO)
    stages.run(warm(*THREE))
    third = mixture(stages, warm(*THREE)).digest
    sources = [warm(*THREE, task("escalate"))]
    stages_rows = stages.run(sources[0])
    assert NAME in stages_rows
    fourth = mixture(stages, sources[0])
    assert fourth.start is not None
    assert fourth.start.key == (NAME, third)
    assert NAME not in stages.run(warm(*THREE))
    assert mixture(stages, warm(*THREE)).digest == third


def test_a_finished_cold_mixture_is_taken_as_it_is() -> None:
    stages, digest = trained(*TWO)
    assert stages.run(warm(*TWO)) == []
    node = mixture(stages, warm(*TWO))
    assert node.digest == digest
    assert node.start is not None
    assert node.start.reason == "is finished already; it started cold"


@pytest.mark.parametrize("tasks", [TWO, THREE])
@pytest.mark.parametrize("edit", [("seed", 5), ("maxSteps", 7), ("minSteps", 2)])
def test_an_edit_of_stage_2_trains_no_finished_mixture_again(tasks: list[Document], edit: tuple[str, int]) -> None:
    """Neither one that started cold, with a stage 2 of its own, nor one that began with that."""
    stages, cold = trained(*TWO)
    stages.run(warm(*tasks))
    digest = mixture(stages, warm(*tasks)).digest
    assert (digest == cold) is (tasks is TWO)
    edited = changed(warm(*tasks), f"stages.highResource.{edit[0]}", edit[1])
    ran = stages.run(edited)
    assert not {STAGE2, NAME, "bundle"} & set(ran)
    node, stage2 = mixture(stages, edited), stages.graph(edited)[STAGE2]
    assert (node.state, node.digest) == (NodeState.DONE, digest)
    assert node.start is not None
    assert (stage2.state, stage2.reason) == (NodeState.SKIPPED, f"the mixture {node.start.reason}")


def test_without_an_earlier_mixture_it_is_the_cold_one() -> None:
    stages, source = SimulatedStages(), warm(*TWO)
    assert STAGE2 in stages.run(source)
    assert mixture(stages, source).digest == trained(*TWO)[1]


def test_the_default_changes_no_digest() -> None:
    stages, digest = trained(*THREE)
    assert mixture(stages, document(*THREE)).start is None
    assert [node.digest for node in stages.graph(warm(*THREE)).nodes] == [
        node.digest for node in stages.graph(document(*THREE)).nodes
    ]
    assert digest is not None


@pytest.mark.parametrize(
    ("earlier", "later", "reason"),
    [
        (document(*TWO), warm(*THREE, baseModel={"uri": "builtin://tiny"}), "is of another base model"),
        (document(*TWO, **LORA), warm(*THREE, tuning={"method": "LoRA", "rank": 4}), "has other adapters"),
        (document(*TWO, **LORA), warm(*THREE, tuning={"method": "LoRA", "rank": 8, "alpha": 8}), "has other adapters"),
        (document(*TWO, **LORA), warm(*THREE, tuning={"method": "Full"}), "has other adapters"),
        (document(*TWO), warm(task("spam"), task("escalate")), "has none of its tasks (intent, urgency)"),
        (
            document(*TWO, tuning={"method": "CGCLoRA", "rank": 12}),
            warm(*THREE, tuning={"method": "CGCLoRA", "rank": 12}),
            "has experts of rank 4, and with 3 tasks they have rank 3; set tuning.expertRank: 4 to keep them",
        ),
    ],
)
def test_a_mixture_that_does_not_fit_is_named_with_the_reason_and_the_start_is_cold(
    earlier: Document, later: Document, reason: str
) -> None:
    stages = SimulatedStages()
    stages.run(earlier)
    before = mixture(stages, earlier).digest
    stages.run(later)
    cold = changed(later, "stages.mixture.start", None)
    assert mixture(stages, cold).digest == mixture(stages, later).digest
    assert starts(stages.graph(later).nodes) == []  # it is finished
    del stages.manifests[NAME, mixture(stages, later).digest]
    start = mixture(stages, later).start
    assert start is not None
    assert start.key is None
    assert start.reason.startswith(f"starts cold: {before}, its latest mixture, {reason}")


def test_the_latest_that_fits_is_taken() -> None:
    stages, first = trained(*TWO)
    stages.run(document(*TWO, training={"learningRate": 1e-4}))
    second = mixture(stages, document(*TWO, training={"learningRate": 1e-4})).digest
    stages.run(document(*TWO, tuning={"method": "Full"}))
    start = mixture(stages, warm(*THREE)).start
    assert start is not None
    assert start.key == (NAME, second)
    del stages.manifests[NAME, second]
    assert mixture(stages, warm(*THREE)).start.key == (NAME, first)  # type: ignore[union-attr]


def test_a_mixture_of_another_model_and_one_of_a_release_that_recorded_no_form_are_no_start() -> None:
    stages, before = trained(*TWO)
    key = (NAME, before)
    original = stages.manifests[key]
    for model, is_start in (("desk", True), ("team-a/desk", True), ("help", False)):
        stages.manifests[key] = original.model_copy(update={"model": model})
        start = mixture(stages, warm(*THREE)).start
        assert start is not None
        assert (start.key == key) is is_start
    outputs = {name: value for name, value in original.outputs.items() if name != FORM}
    stages.manifests[key] = original.model_copy(update={"outputs": outputs})
    start = mixture(stages, warm(*THREE)).start
    assert start is not None
    assert "did not record" in start.reason


@pytest.mark.parametrize("high_resource", [(), ("intent",)])
def test_the_same_mixture_started_cold_is_found_for_comparison(high_resource: tuple[str, ...]) -> None:
    stages = SimulatedStages(high_resource=high_resource)
    stages.run(document(*TWO))
    source = warm(*THREE)
    stages.run(source)
    assert mixture(stages, source).start.cold == ()  # type: ignore[union-attr]
    stages.run(document(*THREE))
    node = mixture(stages, source)
    assert node.start is not None
    assert [item.stage for item in node.start.cold] == [STAGE2] * bool(high_resource) + [NAME]
    assert node.start.cold[-1].digest == mixture(stages, document(*THREE)).digest != node.digest
    assert stages.run(source) == []


def test_experts_added_for_a_task_leave_the_form_as_it_is_and_all_else_changes_it() -> None:
    two, three = ("a", "b"), ("a", "b", "c")
    fixed = Tuning(method="CGCLoRA", rank=12, expert_rank=4)
    assert weights_form(fixed.for_group(two)) == weights_form(fixed.for_group(three))
    forms = [
        Tuning(method="Full"),
        Tuning(method="LoRA", rank=12),
        Tuning(method="LoRA", rank=12, alpha=12),
        Tuning(method="LoRA", rank=12, target_modules=("q_proj",)),
        fixed.for_group(two),
        fixed.model_copy(update={"gate": "Uniform"}).for_group(two),
        fixed.model_copy(update={"common_experts": 2}).for_group(two),
        fixed.model_copy(update={"expert_rank": 2}).for_group(two),
    ]
    assert len({weights_form(form) for form in forms}) == len(forms)
    assert weights_form(forms[1]) == weights_form(Tuning(method="LoRA", rank=12, dropout=0.1))


def test_a_group_of_one_task_has_its_baseline_for_a_mixture_and_starts_nothing() -> None:
    stages = SimulatedStages()
    source = warm(task("urgency"))
    stages.run(source)
    node = mixture(stages, source)
    assert (node.state, node.start) == (NodeState.SKIPPED, None)


def test_other_starts_are_refused() -> None:
    with pytest.raises(Exception, match=r"stages\.mixture\.start"):
        check(changed(document(), "stages.mixture.start", "Next"))
