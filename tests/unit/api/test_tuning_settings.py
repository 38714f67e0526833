"""Tuning in the resource: the experts of CGC-LoRA, their rank in each group, and what baselines are trained with."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from multitask_api.errors import InvalidResource
from multitask_api.resource.parsing import check
from multitask_api.resource.tuning import Tuning
from support.simulated_stages import SimulatedStages, changed, document, task

CGC = {"method": "CGCLoRA", "rank": 12}


def tuning(**settings: Any) -> Tuning:
    return Tuning.model_validate(CGC | settings)


def problems(spec: dict[str, Any]) -> list[str]:
    with pytest.raises(InvalidResource) as caught:
        check(spec)
    return [str(problem) for problem in caught.value.problems]


def test_experts_share_the_rank_of_a_group():
    assert tuning().expert_rank_in(3) == 12 // (1 + 3)
    assert tuning(commonExperts=2, specificExperts=2).expert_rank_in(5) == 1
    assert tuning(commonExperts=0).expert_rank_in(4) == 3
    assert tuning(commonExperts=3, specificExperts=0).expert_rank_in(100) == 4
    assert tuning(expertRank=8).expert_rank_in(7) == 8


def test_a_rank_that_does_not_divide_names_those_that_would():
    with pytest.raises(ValueError, match=r"12 cannot be divided among 5 experts .*; set it to 10 or 15, or set tuning"):
        tuning().expert_rank_in(4)
    assert tuning(rank=3).rank_problem(6) == (
        "3 cannot be divided among 7 experts (1 common, 1 for each of 6 tasks); set it to 7, or set tuning.expertRank"
    )
    assert str(tuning(specificExperts=64).rank_problem(128)).endswith("for each of 128 tasks); set tuning.expertRank")


def test_settings_of_a_group_leave_nothing_to_default():
    spelled_out = tuning(commonExperts=1, specificExperts=1, gate="Task", expertRank=4)
    assert tuning().for_group(["a", "b"]) == spelled_out == spelled_out.for_group(["a", "b"])


def test_a_baseline_and_a_group_of_one_task_are_plain_lora():
    plain = Tuning(method="LoRA", rank=12)
    settings = tuning(commonExperts=2, gate="Uniform", expertRank=3)
    assert settings.for_baseline().to_json() == settings.for_group(["a"]).to_json() == plain.to_json()
    assert plain.for_baseline() is plain.for_group(["a", "b"]) is plain
    assert plain.to_json().keys() == {"method", "rank", "alpha", "dropout", "targetModules"}


@pytest.mark.parametrize("method", ["LoRA", "Full"])
@pytest.mark.parametrize(
    ("name", "value"), [("commonExperts", 1), ("specificExperts", 0), ("expertRank", 2), ("gate", "Task")]
)
def test_settings_of_experts_need_a_method_that_has_them(method: str, name: str, value: object):
    spec = changed(document(), "tuning", {"method": method, name: value})
    assert problems(spec) == [f"spec.tuning.{name}: {method} has no experts; remove it or set method: CGCLoRA"]


def test_a_layer_without_experts_is_refused():
    with pytest.raises(ValidationError, match="there is no expert at all"):
        tuning(commonExperts=0, specificExperts=0)


def test_a_resource_whose_groups_do_not_fit_the_rank_is_refused():
    tasks = [task(f"c{number}") for number in range(3)] + [
        task(f"g{n}", type="Generation", labels=[]) for n in range(2)
    ]
    spec = document(*tasks, tuning=CGC | {"rank": 16})
    assert "\n".join(problems(spec)) == (
        "spec.tuning.rank: group generation: 16 cannot be divided among 3 experts (1 common, 1 for each of 2 tasks);"
        " set it to 15 or 18, or set tuning.expertRank; 12 or 24 fits all groups"
    )
    for changes in ({"rank": 12}, {"rank": 16, "expertRank": 5}, {"rank": 16, "specificExperts": 0}):
        assert check(document(*tasks, tuning=CGC | changes)).spec.group_problems() == ()


def test_with_a_start_the_error_says_how_to_keep_the_experts():
    tasks = [task(f"c{number}") for number in range(4)]
    spec = document(*tasks, tuning=CGC | {"rank": 16}, stages={"mixture": {"start": "Previous"}})
    assert "\n".join(problems(spec)) == (
        "spec.tuning.rank: group classification: 16 cannot be divided among 5 experts (1 common, 1 for each of 4"
        " tasks); set it to 15 or 20, or set tuning.expertRank; to go on from an earlier mixture, set"
        " tuning.expertRank to the rank of its experts, see `mtm report`"
    )


def test_a_rank_has_to_fit_every_group_that_affinity_may_find():
    """Of three classification tasks and two generation tasks none has more than three."""
    tasks = [task(f"c{number}") for number in range(3)] + [
        task(f"g{n}", type="Generation", labels=[]) for n in range(2)
    ]
    affinity = {"filtering": {"strategy": "Affinity"}}
    assert "\n".join(problems(document(*tasks, **affinity, tuning=CGC | {"rank": 16}))) == (
        "spec.tuning.expertRank: filtering.strategy Affinity finds the groups during the run, and rank 16 cannot be"
        " divided among 3 experts, those of a group of 2 tasks; set it, for example to 4"
    )
    for changes in ({"rank": 12}, {"rank": 16, "expertRank": 5}, {"rank": 16, "specificExperts": 0}):
        assert check(document(*tasks, **affinity, tuning=CGC | changes)).spec.group_problems() == ()


def test_groups_are_checked_once_every_task_is_valid():
    tasks = [task("a"), task("b"), task("c", type="Generation")]
    found = problems(document(*tasks, tuning=CGC | {"rank": 7}))
    assert [problem.split(":")[0] for problem in found] == ["spec.tasks[2].labels"]


def test_another_method_trains_no_baseline_again():
    """Of CGC-LoRA's stages only those after the filter differ, and each of them does."""
    stages = SimulatedStages()
    lora = document(tuning={"method": "LoRA", "rank": 12})
    stages.run(lora)
    before = {node.name: node.digest for node in stages.graph(lora).nodes}
    ran = stages.run(document(tuning=CGC))
    assert ran[:2] == ["high-resource/classification", "mixture/classification"]
    assert not [name for name in ran if name.startswith(("prepare", "base", "filter"))]
    after = {node.name: node.digest for node in stages.graph(document(tuning=CGC)).nodes}
    assert all(after[name] == before[name] for name in after if name.startswith(("base", "filter")))
    assert before["mixture/classification"] != after["mixture/classification"]


@pytest.mark.parametrize(
    "settings", [{"commonExperts": 2}, {"expertRank": 3}, {"gate": "Uniform"}, {"specificExperts": 0}]
)
def test_every_setting_of_experts_trains_the_group_again(settings: dict[str, Any]):
    stages = SimulatedStages()
    stages.run(document(tuning=CGC))
    assert "mixture/classification" in stages.run(document(tuning=CGC | settings))


def test_a_default_that_is_written_out_runs_nothing_again():
    stages = SimulatedStages()
    stages.run(document(tuning=CGC))
    written = {"commonExperts": 1, "specificExperts": 1, "gate": "Task"}
    assert stages.run(document(tuning=CGC | written)) == []


def test_labels_of_a_configmap_leave_the_groups_open():
    tasks = [task(name) for name in ("a", "b", "c", "d")]
    for each in tasks:
        del each["labels"]
        each["labelsFrom"] = {"name": "labels", "key": each["name"]}
    spec = document(*tasks, tuning=CGC | {"rank": 7}, filtering={"strategy": "Taxonomy"})
    assert check(spec).spec.group_problems() == ()
    spec["spec"]["filtering"] = {"strategy": "None"}
    assert problems(spec)[0].startswith("spec.tuning.rank: group all: 7 cannot be divided among 5 experts")


def test_rslora_that_is_written_out_as_false_runs_nothing_again():
    stages = SimulatedStages()
    stages.run(document())
    assert stages.run(document(tuning={"useRslora": False})) == []
    assert check(document(tuning={"method": "Full", "useRslora": False})).spec.tuning.use_rslora is None


def test_adamw_that_is_written_out_runs_nothing_again():
    stages = SimulatedStages()
    stages.run(document())
    assert stages.run(document(training={"optimizer": "AdamW"})) == []
    trained = stages.run(document(training={"optimizer": "AdamW8bit"}))
    assert any(stage.startswith("baseline/") for stage in trained)
    assert not any(stage.startswith(("prepare/", "base#")) or stage == "base" for stage in trained)


def test_pretraining_with_another_optimizer_is_another_base():
    stages = SimulatedStages()
    stages.run(document(pretraining={"maxSteps": 5}))
    assert "base" in stages.run(document(pretraining={"maxSteps": 5}, training={"optimizer": "AdamW8bit"}))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        pytest.param(
            {"tuning": {"method": "Full", "quantization": "NF4"}},
            "spec.tuning.quantization: NF4 is for a frozen base, and Full trains all weights; remove it or set method:"
            " LoRA",
            id="Full has no frozen base",
        ),
        pytest.param(
            {"tuning": CGC, "training": {"optimizer": "AdamW8bit"}},
            "spec.training.optimizer: AdamW8bit: CGCLoRA keeps the moments of each task's experts in 32 bits; remove"
            " it, or set tuning.method: LoRA",
            id="moments of tasks are in 32 bits",
        ),
        pytest.param(
            {
                "tuning": {"method": "Full"},
                "training": {"optimizer": "AdamW8bit", "sharding": "Always", "gpusPerNode": 2},
            },
            "spec.training.sharding: Always does not divide the moments of AdamW8bit; remove one of them",
            id="8-bit moments are not divided",
        ),
        pytest.param(
            {"tuning": {"quantization": "NF4"}, "training": {"sharding": "Always", "gpusPerNode": 2}},
            "spec.training.sharding: Always does not divide a base in NF4; remove it or tuning.quantization",
            id="nor is a base in 4 bits",
        ),
    ],
)
def test_what_fewer_bits_cannot_be_combined_with(changes: dict[str, Any], problem: str):
    assert problems(document(**changes)) == [problem]


def test_baselines_keep_the_base_in_4_bits_and_train_apart():
    settings = tuning(quantization="NF4")
    assert settings.for_baseline() == Tuning(method="LoRA", rank=12, quantization="NF4")
    assert not settings.for_baseline().can_share_base
    assert settings.for_group(["a", "b", "c"]).quantization == "NF4"
