"""Bad inputs, each with the message it must give: the resource file first, then the rows of a task."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from multitask_api.data_check import DataReport
from multitask_api.errors import InvalidResource
from multitask_api.resource import parse
from multitask_api.resource.parsing import check
from multitask_trainer.data.locations import DataLocations
from multitask_trainer.jobs.data_check import check_data
from support.data_builders import write_base

Document = dict[str, Any]


def resource() -> Document:
    """A good resource with a classification and a generation task."""
    urgency: Document = {
        "name": "urgency",
        "type": "Classification",
        "labels": ["low", "high"],
        "prompt": "{text}",
    }
    reply: Document = {"name": "reply", "type": "Generation", "prompt": "{text}"}
    for task in (urgency, reply):
        task["data"] = {split: {"uri": f"{split}.jsonl"} for split in ("train", "validation", "test")}
    return {
        "apiVersion": "multitask.dev/v1alpha1",
        "kind": "MultiTaskModel",
        "metadata": {"name": "desk"},
        "spec": {"baseModel": {"uri": "builtin://tiny"}, "tasks": [urgency, reply]},
    }


def put(path: str, value: Any) -> Callable[[Document], None]:
    """Set what stands at a path as in ``spec.tasks[0].labels``; ``...`` takes it out."""

    def change(document: Document) -> None:
        *way, last = path.replace("[", ".").replace("]", "").split(".")
        parent: Any = document
        for part in way:
            parent = parent[int(part)] if isinstance(parent, list) else parent.setdefault(part, {})
        if value is ...:
            del parent[last]
        else:
            parent[int(last) if isinstance(parent, list) else last] = value

    return change


FIRST, SECOND = "spec.tasks[0]", "spec.tasks[1]"
LABEL = (
    "is not a DNS label: use lower-case letters, digits and '-', beginning and ending with a letter or digit; write "
)
CODE = "'pt_BR' is not a language code: use two or three lower-case letters, as in en or zh"
SCHEMES = "supported: file://, hf://, s3://, gs://, pvc:// and plain paths"

# what is wrong, the change to a good resource, the only problem
RESOURCES: list[tuple[str, Callable[[Document], None], str]] = [
    ("no spec", put("spec", ...), "spec: required, but missing"),
    ("another kind", put("kind", "Model"), "kind: 'Model' is not one of 'MultiTaskModel'"),
    (
        "a name with a capital",
        put("metadata.name", "Desk"),
        (
            "metadata.name: 'Desk' is not a DNS label: use lower-case letters, digits and '-', beginning and ending"
            " with a letter or digit; write desk"
        ),
    ),
    (
        "a name with an underscore",
        put(f"{FIRST}.name", "travel_desk"),
        f"{FIRST}.name: 'travel_desk' {LABEL}travel-desk",
    ),
    ("a name of two words", put(f"{FIRST}.name", " Café Desk 2 "), f"{FIRST}.name: ' Café Desk 2 ' {LABEL}cafe-desk-2"),
    ("a name without any letter", put(f"{FIRST}.name", "__"), f"{FIRST}.name: '__' {LABEL.removesuffix('; write ')}"),
    ("a name of a group", put(f"{FIRST}.group", "Group_A"), f"{FIRST}.group: 'Group_A' {LABEL}group-a"),
    ("a language with its region", put(f"{SECOND}.language", "pt_BR"), f"{SECOND}.language: {CODE}; write pt"),
    ("no base", put("spec.baseModel", ...), "spec.baseModel: required, but missing"),
    (
        "an unknown size",
        put("spec.baseModel.uri", "builtin://giant"),
        "spec.baseModel.uri: there is no built-in model 'giant'; the sizes are micro, tiny, small, 50m, 500m",
    ),
    (
        "an unknown scheme",
        put(f"{FIRST}.data.train.uri", "ftp://host/a.jsonl"),
        f"{FIRST}.data.train.uri: unknown scheme ftp://; {SCHEMES}",
    ),
    (
        "a scheme with a slip",
        put(f"{FIRST}.data.train.uri", "s33://bucket/a.jsonl"),
        f"{FIRST}.data.train.uri: unknown scheme s33://; did you mean s3://? {SCHEMES.capitalize()}",
    ),
    (
        "a base with its revision in the address",
        put("spec.baseModel.uri", "hf://org/name@main"),
        ("spec.baseModel.uri: 'hf://org/name@main' contains a revision; write uri: hf://org/name and revision: main"),
    ),
    (
        "a dataset as base",
        put("spec.baseModel.uri", "hf://datasets/org/name"),
        ("spec.baseModel.uri: 'hf://datasets/org/name' names a dataset; give a model, hf://ORGANISATION/NAME"),
    ),
    (
        "a part of a repository as base",
        put("spec.baseModel.uri", "hf://org/name/sub"),
        (
            "spec.baseModel.uri: 'hf://org/name/sub' names a part of a repository; give a whole one,"
            " hf://ORGANISATION/NAME"
        ),
    ),
    (
        "a GGUF file as base",
        put("spec.baseModel.uri", "s3://bucket/models/tiny.gguf"),
        (
            "spec.baseModel.uri: 's3://bucket/models/tiny.gguf' names a GGUF file; write uri: s3://bucket/models and"
            " ggufFile: tiny.gguf"
        ),
    ),
    (
        "a file of another format as GGUF",
        put("spec.baseModel", {"uri": "hf://org/name", "ggufFile": "model.safetensors"}),
        (
            "spec.baseModel.ggufFile: 'model.safetensors' is no name of a GGUF file; write NAME.gguf, or"
            " FOLDER/NAME.gguf below baseModel.uri"
        ),
    ),
    (
        "a GGUF file outside of its folder",
        put("spec.baseModel", {"uri": "base", "ggufFile": "../model.gguf"}),
        (
            "spec.baseModel.ggufFile: '../model.gguf' is no name of a GGUF file; write NAME.gguf, or"
            " FOLDER/NAME.gguf below baseModel.uri"
        ),
    ),
    (
        "a part of a GGUF model",
        put("spec.baseModel", {"uri": "hf://org/name", "ggufFile": "big-00001-of-00003.gguf"}),
        (
            "spec.baseModel.ggufFile: 'big-00001-of-00003.gguf' is one part of a split model; join the parts first:"
            " llama-gguf-split --merge big-00001-of-00003.gguf NAME.gguf"
        ),
    ),
    (
        "a GGUF file of a built-in base",
        put("spec.baseModel", {"uri": "builtin://tiny", "ggufFile": "model.gguf"}),
        "spec.baseModel.ggufFile: builtin://tiny is created and not read from a file; remove it",
    ),
    (
        "a built-in base as data",
        put(f"{FIRST}.data.train.uri", "builtin://tiny"),
        f"{FIRST}.data.train.uri: unknown scheme builtin://; {SCHEMES}",
    ),
    (
        "storage on the hub",
        put("spec.storage", {"uri": "hf://org/name"}),
        "spec.storage.uri: unknown scheme hf://; supported: file://, s3://, gs://, pvc:// and plain paths",
    ),
    (
        "a claim without a name",
        put("spec.storage", {"uri": "pvc:///models"}),
        "spec.storage.uri: 'pvc:///models' does not name a PersistentVolumeClaim; write pvc://CLAIM/PATH",
    ),
    (
        "an address without a path",
        put("spec.storage", {"uri": "s3://"}),
        "spec.storage.uri: 's3://' has no path; add one",
    ),
    (
        "an answer that leaves no room for a prompt",
        put(f"{SECOND}.generation", {"maxNewTokens": 1023}),
        (
            f"{SECOND}.generation.maxNewTokens: 1023 leaves no room for a prompt in"
            " training.maxLength (1024); lower it or raise training.maxLength"
        ),
    ),
    (
        "a length too small for the answers that are the default",
        put("spec.training.maxLength", 65),
        (
            f"{SECOND}.generation.maxNewTokens: 64 (the default) leaves no room for a prompt in"
            " training.maxLength (65); set it lower or raise training.maxLength"
        ),
    ),
    (
        "pre-training on nothing",
        put("spec.pretraining", {"tasksText": False, "maxSteps": 9}),
        "spec.pretraining.corpus: there is no text to train on; name a corpus or set tasksText: true",
    ),
    ("no tasks", put("spec.tasks", []), "spec.tasks: needs at least 1 item, got 0"),
    ("tasks that are no list", put("spec.tasks", "urgency"), "spec.tasks: must be a list, got 'urgency'"),
    ("a task that is no mapping", put(SECOND, "reply"), f"{SECOND}: must be a mapping, got 'reply'"),
    ("a task without data", put(f"{FIRST}.data", ...), f"{FIRST}.data: required, but missing"),
    (
        "a task without test rows",
        put(f"{FIRST}.data.test", ...),
        f"{FIRST}.data.test: required, but missing; give its rows, or their share of the train rows in split.test",
    ),
    (
        "validation rows twice",
        put(f"{FIRST}.data.split", {"validation": 0.1}),
        f"{FIRST}.data.split.validation: data.validation gives the rows already; remove one of the two",
    ),
    (
        "a split without shares",
        put(f"{FIRST}.data.split", {"seed": 3}),
        f"{FIRST}.data.split: names no share; set validation or test, or remove it",
    ),
    (
        "a split that takes all rows",
        put(f"{FIRST}.data", {"train": {"uri": "a.csv"}, "split": {"validation": 0.5, "test": 0.5}}),
        f"{FIRST}.data.split: 0.5 and 0.5 leave no row to train on; their sum must be below 1",
    ),
    (
        "a share in percent",
        put(f"{FIRST}.data", {"train": {"uri": "a.csv"}, "split": {"validation": 10, "test": 0.1}}),
        f"{FIRST}.data.split.validation: must be less than 1, got 10",
    ),
    (
        "two tasks of one name",
        put(f"{SECOND}.name", "urgency"),
        f"{SECOND}.name: 'urgency' is already the name of {FIRST}; rename one",
    ),
    (
        "a label that YAML reads as true",
        put(f"{FIRST}.labels", [True, "no"]),
        f"{FIRST}.labels[0]: YAML reads this as true, not as text; quote it",
    ),
    (
        "a label that YAML reads as 1",
        put(f"{FIRST}.labels", ["0", 1]),
        f"{FIRST}.labels[1]: YAML reads this as 1, not as text; quote it",
    ),
    (
        "one label",
        put(f"{FIRST}.labels", ["low"]),
        f"{FIRST}.labels: a Classification task needs at least two labels, got 1",
    ),
    (
        "no labels",
        put(f"{FIRST}.labels", ...),
        f"{FIRST}.labels: a Classification task needs at least two labels, got 0",
    ),
    (
        "a label twice",
        put(f"{FIRST}.labels", ["a", "b", "a"]),
        f"{FIRST}.labels: 'a' occurs more than once; remove the duplicates",
    ),
    (
        "two labels that look the same",
        put(f"{FIRST}.labels", ["f\u00e2ch\u00e9", "neg", "fa\u0302che\u0301"]),
        (
            f"{FIRST}.labels: 'f\\xe2ch\\xe9' and 'fa\\u0302che\\u0301' are the same text in different Unicode forms "
            "('f\u00e2ch\u00e9'); keep one"
        ),
    ),
    (
        "two Hangul labels that look the same",
        put(f"{FIRST}.labels", ["\u1100\u1161\u11a8", "\uac01"]),
        (
            f"{FIRST}.labels: '\\u1100\\u1161\\u11a8' and '\\uac01' are the same text in different Unicode forms "
            "('\u1100\u1161\u11a8'); keep one"
        ),
    ),
    (
        "a label in white space",
        put(f"{FIRST}.labels", ["a", " b"]),
        f"{FIRST}.labels[1]: ' b' begins or ends with white space; remove it",
    ),
    ("an empty label", put(f"{FIRST}.labels", ["a", ""]), f"{FIRST}.labels[1]: must not be empty"),
    (
        "too many labels",
        put(f"{FIRST}.labels", [f"l{i}" for i in range(257)]),
        f"{FIRST}.labels: at most 256 items allowed, got 257",
    ),
    (
        "labels of a generation task",
        put(f"{SECOND}.labels", ["a", "b"]),
        f"{SECOND}.labels: a Generation task has no labels; remove them or set type: Classification",
    ),
    (
        "a taxonomy of a generation task",
        put(f"{SECOND}.taxonomy", "Binary"),
        f"{SECOND}.taxonomy: only a Classification task has a taxonomy; remove it",
    ),
    (
        "three labels as binary",
        lambda document: document["spec"]["tasks"][0].update(labels=["a", "b", "c"], taxonomy="Binary"),
        f"{FIRST}.taxonomy: Binary needs two labels, got 3; use MultiClass or Ordinal",
    ),
    (
        "a text metric on labels",
        put(f"{FIRST}.metric", "RougeL"),
        f"{FIRST}.metric: RougeL scores text, not labels; use one of Accuracy, MacroF1, MatthewsCorrelation",
    ),
    (
        "a label metric on text",
        put(f"{SECOND}.metric", "MacroF1"),
        f"{SECOND}.metric: MacroF1 scores labels, not text; use one of ExactMatch, TokenF1, RougeL, Bleu",
    ),
    (
        "generation settings on labels",
        put(f"{FIRST}.generation", {}),
        f"{FIRST}.generation: only a Generation task has generation settings; remove them or set type: Generation",
    ),
    *(
        (
            f"a group called {name}",
            put(f"{FIRST}.group", name),
            f"{FIRST}.group: {name!r} is a reserved name; choose another",
        )
        for name in ("base", "baseline")
    ),
    ("no prompt", put(f"{FIRST}.prompt", ...), f"{FIRST}.prompt: set exactly one of prompt and promptFrom"),
    (
        "a prompt without a field",
        put(f"{FIRST}.prompt", "How urgent?"),
        f"{FIRST}.prompt: contains no field, so every row gives the same input; add one, for example {{text}}",
    ),
    (
        "a lone brace",
        put(f"{FIRST}.prompt", "{text} }"),
        f"{FIRST}.prompt: position 8: a single '}}'; write '}}}}' for a brace, {{name}} for a field",
    ),
    (
        "a field that is no identifier",
        put(f"{FIRST}.prompt", "{the text}"),
        (
            f"{FIRST}.prompt: position 1: '{{the text}}' is not a field; a field name has letters, digits and"
            " underscores and does not begin with a digit (write '{{' for a brace)"
        ),
    ),
    (
        "a prompt that shows the label",
        put(f"{FIRST}.prompt", "{text} {label}"),
        f"{FIRST}.prompt: contains the answer, {{label}}; use only fields that a request has",
    ),
    (
        "a prompt of too many fields",
        put(f"{FIRST}.prompt", "".join(f"{{f{number}}}" for number in range(65))),
        f"{FIRST}.prompt: has 65 fields; at most 64 are allowed; combine some",
    ),
    (
        "a field with too long a name",
        put(f"{FIRST}.prompt", f"{{{'a' * 65}}}"),
        (f"{FIRST}.prompt: the field name aaaaaaaaaaaaaaaa… has 65 characters; at most 64 are allowed; shorten it"),
    ),
    (
        "an unknown field",
        put("spec.training", {"batchRow": 8}),
        "spec.training.batchRow: unknown field; did you mean batchRows?",
    ),
    (
        "a field in snake case",
        put("spec.training", {"gradient_checkpointing": "Never"}),
        "spec.training.gradient_checkpointing: unknown field; did you mean gradientCheckpointing?",
    ),
    (
        "a required field in snake case",
        lambda document: document["spec"].update(base_model=document["spec"].pop("baseModel")),
        "spec.base_model: unknown field; did you mean baseModel?",
    ),
    (
        "a field in snake case, without which a task is not valid",
        lambda document: document["spec"]["tasks"][1].update(
            {"prompt_from": {"name": document["spec"]["tasks"][1].pop("prompt"), "key": "reply"}}
        ),
        f"{SECOND}.prompt_from: unknown field; did you mean promptFrom?",
    ),
    (
        "a field of nothing known",
        put("spec.filtering", {"xyz": 8}),
        "spec.filtering.xyz: unknown field; known fields: diagnosis, maxGroups, rows, strategy",
    ),
    (
        "a temperature below one",
        put("spec.stages", {"mixture": {"temperature": 0.5}}),
        "spec.stages.mixture.temperature: must be at least 1, got 0.5",
    ),
    (
        "a threshold of zero",
        put("spec.qualification", {"threshold": 0}),
        "spec.qualification.threshold: must be greater than 0, got 0",
    ),
    (
        "a threshold above one",
        put("spec.qualification", {"threshold": 99}),
        "spec.qualification.threshold: must be at most 1, got 99",
    ),
    (
        "half a row",
        put("spec.training", {"batchRows": 0.5}),
        "spec.training.batchRows: must be a whole number, got 0.5",
    ),
    (
        "a number in quotes",
        put("spec.training", {"batchRows": "8"}),
        "spec.training.batchRows: must be a whole number, got '8'; remove the quotes",
    ),
    ("a switch that is a word", put("spec.suspend", "on it"), "spec.suspend: must be true or false, got 'on it'"),
    (
        "an unknown method",
        put("spec.tuning", {"method": "Lora"}),
        "spec.tuning.method: 'Lora' is not one of 'Full', 'LoRA', 'CGCLoRA'",
    ),
    (
        "a boolean for one of several words",
        put("spec.training", {"gradientCheckpointing": True}),
        "spec.training.gradientCheckpointing: YAML reads this as true; write one of Auto, Always, Never",
    ),
    (
        "a number for one of several words",
        put(f"{FIRST}.metric", 1),
        (
            f"{FIRST}.metric: YAML reads this as 1; write one of Accuracy, MacroF1, MatthewsCorrelation, ExactMatch,"
            " TokenF1, RougeL, Bleu"
        ),
    ),
    (
        "weights divided among no GPUs",
        put("spec.training", {"sharding": "Always", "nodes": 2, "gpusPerNode": 0}),
        "spec.training.sharding: Always needs GPUs, and gpusPerNode is 0; raise it, or set Auto",
    ),
    *(
        (
            f"too high a limit at {path}",
            put(f"spec.{path}", 1_000_001),
            f"spec.{path}: must be at most 1000000, got 1000001",
        )
        for path in (
            "stages.totalSteps",
            "stages.validations",
            "stages.baseline.maxSteps",
            "stages.highResource.maxSteps",
            "stages.highResource.minSteps",
            "stages.highResource.minSaturationSteps",
            "stages.mixture.maxSteps",
            "stages.mixture.minSteps",
            "pretraining.maxSteps",
            "training.warmupSteps",
            "training.evalEvery",
            "training.minSteps",
            "training.patience",
        )
    ),
    (
        "a lower bound from one seed",
        put("spec.qualification", {"rule": "LowerBound"}),
        (
            "spec.qualification.rule: LowerBound needs stages.baseline.seeds of 2 or more, because one seed does not"
            " show how much the single-task score varies"
        ),
    ),
    (
        "steps that do not rise",
        put("spec.serving", {"rollout": {"steps": [50, 10, 100]}}),
        "spec.serving.rollout.steps: must rise and end with 100, got [50, 10, 100]",
    ),
    (
        "steps that stand still",
        put("spec.serving", {"rollout": {"steps": [50, 50, 100]}}),
        "spec.serving.rollout.steps: must rise and end with 100, got [50, 50, 100]",
    ),
    (
        "single steps that end below 100",
        put("spec.serving", {"rollout": {"steps": [{"setWeight": 20}, {"pause": {}}]}}),
        "spec.serving.rollout.steps: must rise and end with 100, got [20]",
    ),
    (
        "percentages among single steps",
        put("spec.serving", {"rollout": {"steps": [10, {"setWeight": 100}]}}),
        "spec.serving.rollout.steps: gives percentages and single steps; use one of both forms",
    ),
    (
        "a pause before there is traffic",
        put("spec.serving", {"rollout": {"steps": [{"pause": {}}, {"setWeight": 100}]}}),
        "spec.serving.rollout.steps: must begin with setWeight: before it no traffic could be analysed",
    ),
    (
        "two things in one step",
        put("spec.serving", {"rollout": {"steps": [{"setWeight": 10, "pause": {}}, {"setWeight": 100}]}}),
        "spec.serving.rollout.steps[0]: has to be one of setWeight, pause and analysis",
    ),
    (
        "a step that is a word",
        put("spec.serving", {"rollout": {"steps": ["half", 100]}}),
        "spec.serving.rollout.steps[0]: must be a whole number, got 'half'",
    ),
    (
        "a step below 1 %",
        put("spec.serving", {"rollout": {"steps": [{"setWeight": 0}, {"setWeight": 100}]}}),
        "spec.serving.rollout.steps[0].setWeight: must be at least 1, got 0",
    ),
    (
        "a duration in words",
        put("spec.serving", {"rollout": {"steps": [{"setWeight": 100}, {"pause": {"duration": "5 min"}}]}}),
        (
            "spec.serving.rollout.steps[1].pause.duration: '5 min' is no duration; write seconds, or a text such as"
            " 90s, 5m or 1h"
        ),
    ),
    (
        "a language by name",
        put(f"{SECOND}.language", "English"),
        f"{SECOND}.language: 'English' is not a language code: use two or three lower-case letters, as in en or zh",
    ),
    (
        "NaN",
        put("spec.training", {"learningRate": float("nan")}),
        "spec.training.learningRate: must be a finite number, got nan",
    ),
]


@pytest.mark.parametrize(("change", "message"), [case[1:] for case in RESOURCES], ids=[case[0] for case in RESOURCES])
def test_a_resource_with_one_fault(change: Callable[[Document], None], message: str) -> None:
    document = resource()
    parse(yaml.safe_dump(document))
    change(document)
    with pytest.raises(InvalidResource) as caught:
        parse(yaml.safe_dump(document))
    assert str(caught.value).splitlines() == [message]


@pytest.mark.parametrize("length", [16, 32, 64])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put(f"{FIRST}.labels", ["a"]), f"{FIRST}.labels: a Classification task needs at least two labels, got 1"),
        (put(f"{FIRST}.metric", "RougeL"), f"{FIRST}.metric: RougeL scores text, not labels; use one of"),
        (put(f"{FIRST}.type", "classification"), f"{FIRST}.type: 'classification' is not one of"),
    ],
)
def test_a_problem_of_a_task_is_no_second_problem_of_its_length(
    change: Callable[[Document], None], message: str, length: int
) -> None:
    document = resource()
    del document["spec"]["tasks"][1]
    put("spec.training.maxLength", length)(document)
    change(document)
    with pytest.raises(InvalidResource) as caught:
        check(document)
    assert [str(problem)[: len(message)] for problem in caught.value.problems] == [message]


def test_manual_filtering_names_every_task_without_a_group() -> None:
    document = resource()
    document["spec"]["filtering"] = {"strategy": "Manual"}
    document["spec"]["tasks"][0]["group"] = "desk"
    with pytest.raises(InvalidResource) as caught:
        check(document)
    assert str(caught.value) == f"{SECOND}.group: filtering.strategy: Manual needs a group for every task; add one"


@pytest.mark.parametrize(
    "other",
    [
        put("spec.training.batchRows", 0),
        put(f"{FIRST}.data.train.uri", ""),
        put(f"{SECOND}.generation", {"maxNewTokens": 4096}),
    ],
)
def test_a_rank_that_does_not_fit_a_group_is_named_beside_other_problems(other: Callable[[Document], None]) -> None:
    document = resource()
    put("spec.tuning", {"method": "CGCLoRA", "rank": 7})(document)
    put("spec.filtering", {"strategy": "None"})(document)
    with pytest.raises(InvalidResource) as alone:
        check(document)
    (rank,) = alone.value.problems
    assert rank.path == "spec.tuning.rank"
    other(document)
    with pytest.raises(InvalidResource) as caught:
        check(document)
    assert len(caught.value.problems) == 2
    assert rank in caught.value.problems


TEXTS = [
    ("", "it is empty; expected one YAML mapping with apiVersion, kind, metadata and spec"),
    ("- a", "expected one YAML mapping with apiVersion, kind, metadata and spec"),
    ("a: 1\nb: 2\na: 3", "line 3: 'a' is already on line 1; remove one"),
    ("spec:\n  x: {y: 1, y: 2}", "line 2: 'y' is already on line 2; remove one"),
    (
        "a: [1",
        "not YAML: line 1, column 6: expected ',' or ']', but got '<stream end>'; check indentation and quotes there",
    ),
    ("a: 1\n---\na: 2", "more than one YAML document; put each resource into its own file"),
    ("a: &x [*x]", "an anchor contains itself; repeat the part instead"),
]


@pytest.mark.parametrize(("text", "message"), TEXTS)
def test_text_that_is_no_resource(text: str, message: str) -> None:
    with pytest.raises(InvalidResource) as caught:
        parse(text)
    assert str(caught.value) == message


def test_all_problems_of_all_tasks_come_at_once_and_stand_together() -> None:
    document = resource()
    put(f"{FIRST}.metric", "Bleu")(document)  # a rule of the task …
    put(f"{FIRST}.data.train.uri", "x://y")(document)  # … beside a field that is wrong by itself
    put(f"{SECOND}.name", "urgency")(document)  # a rule between tasks
    put(f"{SECOND}.labels", ["a", "b"])(document)
    put(f"{SECOND}.metric", "Accuracy")(document)
    put("spec.qualification", {"rule": "LowerBound"})(document)
    put("spec.training", {"seed": -1})(document)
    with pytest.raises(InvalidResource) as caught:
        check(document)
    assert [problem.path for problem in caught.value.problems] == [
        f"{FIRST}.data.train.uri",
        f"{FIRST}.metric",
        f"{SECOND}.labels",
        f"{SECOND}.metric",
        f"{SECOND}.name",
        "spec.training.seed",
        "spec.qualification.rule",
    ]


def test_numbers_are_read_as_kubernetes_reads_them() -> None:
    text = yaml.safe_dump(resource()) + "  training: {learningRate: 2e-4, batchRows: 8.0}\n  tuning: {alpha: 16}\n"
    spec = parse(text).spec
    assert (spec.training.learning_rate, spec.training.batch_rows, spec.tuning.alpha) == (2e-4, 8, 16.0)


# -- rows --------------------------------------------------------------------------------------------------------------

GOOD = [{"text": "broken", "label": "high", "target": "sorry"}, {"text": "thanks", "label": "low", "target": "gladly"}]


def lines(*rows: Any) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in (*GOOD, *rows)).encode()


def at(line: int, field: str, reason: str) -> str:
    return f"train.jsonl, line {line}: {field}: {reason}"


# what is wrong, the train file (its name is the key), the task it is wrong for, the first message
ROWS: list[tuple[str, str, bytes, int, str]] = [
    (
        "a field is missing",
        "train.jsonl",
        lines({"label": "low"}),
        0,
        at(3, "text", "missing; the prompt needs it; this one has the fields label"),
    ),
    (
        "a field is null",
        "train.jsonl",
        lines({"text": None, "label": "low"}),
        0,
        at(3, "text", "null; write a string or a number"),
    ),
    (
        "a field is nested",
        "train.jsonl",
        lines({"text": {"en": "a"}, "label": "low"}),
        0,
        at(3, "text", "an object; write a string or a number"),
    ),
    (
        "a field is a list",
        "train.jsonl",
        lines({"text": ["a"], "label": "low"}),
        0,
        at(3, "text", "a list; write a string or a number"),
    ),
    (
        "a field is half a character",
        "train.jsonl",
        lines({"text": "\ud800", "label": "low"}),
        0,
        at(3, "text", "half of a surrogate pair, which is not text; write the file again as UTF-8"),
    ),
    (
        "all fields are empty",
        "train.jsonl",
        lines({"text": " ", "label": "low"}),
        0,
        at(3, "text", "empty; nothing of this row would reach the model"),
    ),
    (
        "a label is missing",
        "train.jsonl",
        lines({"text": "a"}),
        0,
        at(3, "label", "missing; every row needs its label; this one has the fields text"),
    ),
    (
        "a label in capitals",
        "train.jsonl",
        lines({"text": "a", "label": "High"}),
        0,
        at(3, "label", "'High' is not one of the task's labels; did you mean 'high'?"),
    ),
    (
        "a label of another task",
        "train.jsonl",
        lines({"text": "a", "label": "spam"}),
        0,
        at(3, "label", "'spam' is not one of the task's labels; they are 'low', 'high'"),
    ),
    (
        "a label that is a list",
        "train.jsonl",
        lines({"text": "a", "label": ["low"]}),
        0,
        at(3, "label", "a list; write a string or a number"),
    ),
    (
        "an empty target",
        "train.jsonl",
        lines({"text": "a", "target": "  "}),
        1,
        at(3, "target", "empty; a row needs an answer to learn or to be judged by"),
    ),
    (
        "no target",
        "train.jsonl",
        lines({"text": "a"}),
        1,
        at(3, "target", "missing (or 'targets'); every row needs its reference; this one has the fields text"),
    ),
    (
        "no entry in targets",
        "train.jsonl",
        lines({"text": "a", "targets": []}),
        1,
        at(3, "targets", "must be a list with at least one string"),
    ),
    (
        "an empty entry in targets",
        "train.jsonl",
        lines({"text": "a", "targets": ["b", ""]}),
        1,
        at(3, "targets", "holds an entry that is empty or not a string"),
    ),
    (
        "a label without rows",
        "train.jsonl",
        json.dumps(GOOD[0]).encode(),
        0,
        "no row has the label 'low'; add rows, or remove it from the task's labels",
    ),
    (
        "a line that is no JSON",
        "train.jsonl",
        lines() + b"{text: a}\n",
        0,
        "train.jsonl, line 3: not JSON (Expecting property name enclosed in double quotes",
    ),
    (
        "a line that is a list",
        "train.jsonl",
        lines([1]),
        0,
        'train.jsonl, line 3: a list, not a JSON object; write it as {"text": …}',
    ),
    (
        "a line that is no UTF-8",
        "train.jsonl",
        lines() + b'{"text": "\xff"}\n',
        0,
        "train.jsonl, line 3: not UTF-8 (byte 0xff in 'text'); save the file as UTF-8",
    ),
    ("an empty file", "train.jsonl", b"", 0, "train.jsonl: there are no rows; a split needs at least one"),
    (
        "a name that is no data file",
        "train.txt",
        b"a",
        0,
        "train.txt: not a data file by its name; rename or convert it to .jsonl, .json, .csv, .tsv or .parquet",
    ),
    (
        "a gzip file that breaks off",
        "train.jsonl.gz",
        gzip.compress(lines())[:-9],
        0,
        "train.jsonl.gz, line 3: not whole gzip data (Compressed file ended before the end-of-stream",
    ),
    (
        "a gzip file that is none",
        "train.jsonl.gz",
        lines(),
        0,
        "train.jsonl.gz, line 1: not whole gzip data (Not a gzipped file (b'{\"')); write or copy the file again",
    ),
    (
        "a csv row with a comma too many",
        "train.csv",
        b"text,label\na,low\nb,c,high\nd,high\n",
        0,
        "train.csv, line 3: 3 columns, but the header has 2; quote the cells",
    ),
    (
        "a csv header without the field",
        "train.csv",
        b"message,label\na,low\nb,high\n",
        0,
        "train.csv, lines 2-3 (2 rows): text: missing; the prompt needs it; this one has the fields label, message",
    ),
    ("a file that is no parquet", "train.parquet", b"PAR1PAR1", 0, "train.parquet: not a parquet file"),
]


def looked_at(folder: Path, train: str, content: bytes) -> DataReport:
    (folder / train).write_bytes(content)
    for split in ("validation", "test"):
        (folder / f"{split}.jsonl").write_bytes(lines())
    document = resource()
    for task in document["spec"]["tasks"]:
        task["data"] = task["data"] | {"train": {"uri": train}}
    return check_data(check(document).spec, DataLocations(folder))


@pytest.mark.parametrize(
    ("train", "content", "task", "message"), [case[1:] for case in ROWS], ids=[case[0] for case in ROWS]
)
def test_rows_with_one_fault(tmp_path: Path, train: str, content: bytes, task: int, message: str) -> None:
    path = f"spec.tasks[{task}].data.train"
    messages = [problem.message for problem in looked_at(tmp_path, train, content).problems if problem.path == path]
    assert messages[0].startswith(message)


BASES = [
    # training.maxLength, the base's config.json (None: a built-in base), the problem
    (4096, None, None),
    (4097, None, "4097 tokens are more than the base model takes, 4096 (its max_position_embeddings); lower training."),
    (512, '{"max_position_embeddings": 512}', None),
    (513, '{"max_position_embeddings": 512}', "513 tokens are more than the base model takes, 512 (its max_position_"),
    (513, '{"text_config": {"max_position_embeddings": 512}}', "513 tokens are more than the base model takes, 512"),
    (99999, '{"n_positions": 512}', None),  # the stage base loads it, and knows
]


@pytest.mark.parametrize(("length", "config", "message"), BASES)
def test_rows_longer_than_the_base_takes(tmp_path: Path, length: int, config: str | None, message: str | None) -> None:
    document = resource()
    document["spec"]["training"] = {"maxLength": length}
    if config is not None:
        document["spec"]["baseModel"]["uri"] = "base"
        write_base(tmp_path / "base", config)
    problems = [
        item for item in check_data(check(document).spec, DataLocations(tmp_path)).problems if ".data." not in item.path
    ]
    assert [item.path for item in problems] == ["spec.training.maxLength"] * (message is not None)
    assert not message or problems[0].message.startswith(message)


def test_good_rows_have_no_problem(tmp_path: Path) -> None:
    assert looked_at(tmp_path, "train.jsonl", lines()).problems == ()


def test_there_are_thirty_bad_inputs_and_more() -> None:
    assert len(RESOURCES) + len(TEXTS) + len(ROWS) >= 30
