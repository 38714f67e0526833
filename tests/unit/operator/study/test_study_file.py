"""The file of a study, and the arms that it means."""

from __future__ import annotations

import json

import pytest
import yaml

from multitask_api.errors import InvalidResource
from multitask_operator.study.arms import arms_of, at_equal_cost, merged, names_of_runs, runs_of
from multitask_operator.study.spec import check, parse
from support.simulated_study import model_document, study_document

LORA = {"method": "LoRA", "rank": 8}


def arms(study=None, model=None):
    return arms_of(check(study or study_document()), model or model_document())


def test_a_grid_is_every_combination_the_first_being_the_reference():
    names = ["strategy=Type,temperature=1", "strategy=Type,temperature=2"]
    names += ["strategy=None,temperature=1", "strategy=None,temperature=2"]
    found = arms()
    assert [arm.name for arm in found] == names
    assert [arm.model.spec.filtering.strategy for arm in found] == ["Type", "Type", "None", "None"]
    assert [arm.model.spec.stages.mixture.temperature for arm in found] == [1, 2, 1, 2]
    assert found[2].changes == {"filtering.strategy": "None", "stages.mixture.temperature": 1}


def test_a_list_of_arms_changes_some_fields_and_takes_out_others():
    listed = [
        {"name": "as-it-is"},
        {"name": "naive", "spec": {"filtering": {"strategy": "None"}, "stages": {"highResource": {"enabled": False}}}},
        {"name": "plain-base", "spec": {"pretraining": None}},
        {"name": "lora", "spec": {"tuning": LORA, "training": {"learningRate": 0.001}}},
    ]
    model = model_document(pretraining={"maxSteps": 10}, stages={"mixture": {"sizeLimit": 100}})
    first, naive, plain, lora = arms(study_document(arms=listed), model)
    assert first.model.spec.pretraining is not None
    assert not naive.model.spec.stages.high_resource.enabled
    assert naive.model.spec.stages.mixture.size_limit == 100, "the other fields stay"
    assert plain.model.spec.pretraining is None
    assert lora.model.spec.tuning.rank == 8
    assert lora.model.spec.training.batch_rows == model["spec"]["training"]["batchRows"]


def test_null_in_a_grid_leaves_the_field_out():
    study = study_document(parameters={"stages.mixture.sizeLimit": {"values": [None, 500]}})
    unset, limited = arms(study, model_document(stages={"mixture": {"sizeLimit": 100}}))
    assert (unset.name, limited.name) == ("sizeLimit=unset", "sizeLimit=500")
    assert [arm.model.spec.stages.mixture.size_limit for arm in (unset, limited)] == [None, 500]


def test_fields_that_end_alike_have_their_whole_names():
    grid = {"stages.highResource.maxSteps": {"values": [10, 20]}, "pretraining.maxSteps": {"values": [5]}}
    assert arms(study_document(parameters=grid))[0].name == "stages.highResource.maxSteps=10,pretraining.maxSteps=5"


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
        ({"a": "foo"}, {"a": {"b": 1}}, {"a": {"b": 1}}),
    ],
)
def test_arms_are_merge_patches_as_in_rfc_7396(target, patch, result):
    assert merged(target, patch) == result


def test_seeds_follow_that_of_the_model_and_all_arms_of_one_come_first():
    study = check(study_document(seeds=2))
    found = runs_of(study, arms_of(study, model_document(training={"seed": 5})))
    assert [run.seed for run in found] == [5, 5, 5, 5, 6, 6, 6, 6]
    assert found[0].arm.name == found[4].arm.name


def test_what_several_runs_need_is_named_by_its_arms_and_its_seed():
    study = check(study_document(seeds=2))
    found = runs_of(study, arms_of(study, model_document()))
    first, second = found[0].arm.name, found[1].arm.name

    def name(*indices):
        return names_of_runs([found[index] for index in indices], found)

    assert name(0) == f"{first}, seed 17"
    assert name(4) == f"{first}, seed 18"
    assert name(0, 4) == first
    assert name(0, 1) == f"{first} and {second}, seed 17"
    assert name(0, 1, 2) == f"{first}, {second} and 1 more, seed 17"
    assert name(0, 1, 5) == f"{first}, seed 17; {second}"
    assert name(0, 1, 2, 3) == "all arms, seed 17"
    assert name(*range(8)) == name() == "all arms"


def test_a_run_has_its_seed_equal_steps_and_validations_and_no_early_stopping():
    model = arms(model=model_document(training={"evalEvery": 50, "seed": 5}))[0].model
    stages = at_equal_cost(model, 7, 400).spec.stages
    assert (stages.total_steps, stages.validations) == (400, 8)
    assert (stages.mixture.seed, stages.high_resource.seed) == (7, 7)
    assert min(stages.mixture.min_steps or 0, stages.high_resource.min_steps or 0) > 400
    assert at_equal_cost(model, 7, 4000).spec.stages.validations == 20
    assert at_equal_cost(model, 7, 10).spec.stages.validations == 1
    assert at_equal_cost(model, 7, None).spec.stages.total_steps is None
    assert at_equal_cost(model, 7, 400).spec.training == model.spec.training, "baselines are those of the model"


GRID = "parameters.stages.mixture.temperature"
WRONG = [
    # fields of the study, fields of the model's spec, the place, the message
    ({"seeds": 0}, {}, "seeds", "must be at least 1"),
    ({"seed": 3}, {}, "seed", "unknown field; did you mean seeds?"),
    ({"total_steps": 30}, {}, "total_steps", "unknown field; did you mean totalSteps?"),
    ({"kind": "MultiTaskModel"}, {}, "kind", "'MultiTaskModel' is not one of 'Study'"),
    ({"metadata": {"name": "A study"}}, {}, "metadata.name", "is not a DNS label"),
    ({"parameters": {}}, {}, "", "names nothing that varies"),
    ({"parameters": {"filtering.strategy": {"values": ["None"]}}}, {}, "", "it has one arm"),
    (
        {"parameters": {"filtering.strategy": {"value": ["None"]}}},
        {},
        "parameters.filtering.strategy.values",
        "missing",
    ),
    ({"arms": [{"name": "a"}, {"name": "b"}], "parameters": {"x": {"values": [1]}}}, {}, "", "it gives both"),
    ({"arms": [{"name": "a"}, {"name": "a"}]}, {}, "arms[1].name", "already the name of another arm"),
    ({"arms": [{"name": "a"}, {"name": "b"}]}, {}, "arm b", "is the same as arm a"),
    (
        {"parameters": {"stages.mixture.temperature": {"values": [2, 0.5]}}},
        {},
        "arm temperature=0.5: spec.stages.mixture.temperature",
        "must be at least 1, got 0.5",
    ),
    (
        {
            "parameters": {
                "stages.mixture.temperature": {"values": [2, 0.5]},
                "training.warmupSteps": {"values": [1, 2]},
            }
        },
        {},
        "arms temperature=0.5,warmupSteps=1 and temperature=0.5,warmupSteps=2: spec.stages.mixture.temperature",
        "must be at least 1, got 0.5",
    ),
    (
        {"parameters": {"tuning": {"values": [{"method": "LoRA"}, {"method": "CGCLoRA", "rank": 7}]}}},
        {},
        'arm tuning={"method":"CGCLoRA","rank":7}: spec.tuning.rank',
        "7 cannot be divided among 4 experts",
    ),
    (
        {"arms": [{"name": "a"}, {"name": "b", "spec": {"filtering": {"stratgy": "None"}}}]},
        {},
        "arms[1].spec.filtering.stratgy",
        "unknown field; did you mean filtering.strategy?",
    ),
    (
        {"parameters": {"mixture.temperature": {"values": [1, 2]}}},
        {},
        "parameters.mixture.temperature",
        "unknown field; did you mean stages.mixture.temperature?",
    ),
    (
        {"parameters": {"stages.high_resource.max_steps": {"values": [1, 2]}}},
        {},
        "parameters.stages.high_resource.max_steps",
        "unknown field; did you mean stages.highResource.maxSteps?",
    ),
    (
        {"parameters": {"pretraining.maxStep": {"values": [1, 2]}}},
        {},
        "parameters.pretraining.maxStep",
        "unknown field; did you mean pretraining.maxSteps?",
    ),
    (
        {"parameters": {"tuning.xyzzy": {"values": [1, 2]}}},
        {},
        "parameters.tuning.xyzzy",
        "unknown field; known fields: alpha, commonExperts",
    ),
    (
        {"arms": [{"name": "a"}, {"name": "b", "spec": {"spec": {"tuning": {"rank": 8}}}}]},
        {},
        "arms[1].spec.spec.tuning.rank",
        "write tuning.rank",
    ),
    (
        {"arms": [{"name": "a"}, {"name": "b", "spec": {"stages": {"baseline": {"seeds": 3}}}}]},
        {},
        "arms[1].spec.stages.baseline.seeds",
        "arms cannot be compared that differ in it; vary one of filtering, pretraining",
    ),
    (
        {"parameters": {"training.batchRows": {"values": [8, 16]}}},
        {},
        "parameters.training.batchRows",
        "arms cannot be compared that differ in it",
    ),
    ({}, {"stages": {"mixture": {"start": "Previous"}}}, "spec.stages.mixture.start", "weights of another one"),
    ({}, {"stages": {"baseline": {"enabled": False}}}, "spec.stages.baseline.enabled", "by their ratio to the basel"),
    ({"parameters": {f"tuning.{n}": {"values": list(range(9))} for n in ("rank", "alpha")}}, {}, "", "81 combinations"),
]


@pytest.mark.parametrize(("study", "model", "place", "message"), WRONG, ids=lambda value: str(value)[:30])
def test_what_is_wrong_is_named_with_its_place_and_arm(study, model, place, message):
    with pytest.raises(InvalidResource) as caught:
        arms(study_document(**study), model_document(**model))
    named = [problem for problem in caught.value.problems if place in problem.path and message in problem.message]
    assert named, str(caught.value)


def test_the_text_is_yaml_and_a_key_twice_is_an_error():
    assert parse(yaml.safe_dump(study_document())).seeds == 3
    with pytest.raises(InvalidResource, match="'seeds' is already on line"):
        parse(json.dumps(study_document())[:-1] + ', "seeds": 3, "seeds": 4}')
