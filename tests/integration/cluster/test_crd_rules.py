"""Every CEL rule of the CRDs, on the API server: what it refuses, and the words that a user reads."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from support.cluster import admission, resources
from support.cluster.schemas import ABSENT, edit, nodes

Object = dict[str, Any]
TASK = "spec.tasks[0]"
DATA = "data.jsonl"
GENERATION = {f"{TASK}.type": "Generation", f"{TASK}.labels": ABSENT}
TWO_TYPES = [resources.task("urgent"), resources.task("reply", type="Generation", labels=None)]
GGUF_URI = "names a GGUF file; give its folder or repository, and the file's name in the field ggufFile"
GGUF_NAME = "this is no name of a GGUF file; write NAME.gguf, or FOLDER/NAME.gguf below baseModel.uri"
HUB_BASE = "give a whole model repository of the hub, hf://ORGANISATION/NAME, and its revision in the field revision"

NO_LABELS = "a Generation task has no labels; remove them or set type: Classification"
NO_GENERATION = "only a Generation task has generation settings; remove them or set type: Generation"
ROWS_OR_SHARE = "give the {0} rows, or their share of the train rows in split.{0}, and not both"
NOT_DIVIDED = (
    "training.sharding: Always divides neither the moments of AdamW8bit nor a base in 4 bits; remove one of them"
)

#: sentence, changes to a good model, the field that is named, the rule's message
RULES: list[tuple[str, Object, str, str]] = [
    ("a task has a prompt or a reference to one",
     {f"{TASK}.prompt": ABSENT}, TASK, "set exactly one of prompt and promptFrom"),
    ("and not both",
     {f"{TASK}.promptFrom": {"name": "prompts", "key": "a"}}, TASK, "set exactly one of prompt and promptFrom"),
    ("a prompt names a field of the row",
     {f"{TASK}.prompt": "How urgent is it?"}, TASK, "the prompt contains no field; add one, for example {text}"),
    ("a brace that is written twice names none",
     {f"{TASK}.prompt": "{{text}}"}, TASK, "the prompt contains no field; add one, for example {text}"),
    ("a brace that stands alone is a slip",
     {f"{TASK}.prompt": "{text} }"}, TASK,
     "the prompt has a brace that is not part of a field such as {text}; write {{ or }} for a brace"),
    ("a field's name does not begin with a digit",
     {f"{TASK}.prompt": "{1st}"}, TASK,
     "the prompt has a brace that is not part of a field such as {text}; write {{ or }} for a brace"),
    ("one label is no choice",
     {f"{TASK}.labels": ["yes"]}, TASK, "a Classification task needs at least two labels"),
    ("labels are given here or by reference",
     {f"{TASK}.labelsFrom": {"name": "labels", "key": "a"}}, TASK, "set labels or labelsFrom, not both"),
    ("a label has no space around it",
     {f"{TASK}.labels": ["yes", "no "]}, f"{TASK}.labels[1]", "begins or ends with white space; remove it"),
    ("a generation task has no labels",
     {f"{TASK}.type": "Generation"}, TASK, NO_LABELS),
    ("nor a reference to some",
     GENERATION | {f"{TASK}.labelsFrom": {"name": "labels", "key": "a"}}, TASK, NO_LABELS),
    ("nor a taxonomy",
     GENERATION | {f"{TASK}.taxonomy": "MultiClass"}, TASK, "only a Classification task has a taxonomy; remove it"),
    ("a classification task generates nothing",
     {f"{TASK}.generation": {}}, TASK, NO_GENERATION),
    ("two labels at most are binary",
     {f"{TASK}.labels": ["a", "b", "c"], f"{TASK}.taxonomy": "Binary"}, TASK,
     "taxonomy: Binary needs two labels; use MultiClass or Ordinal"),
    ("a metric of text does not judge labels",
     {f"{TASK}.metric": "RougeL"}, TASK, "this metric is not for this type of task; choose another"),
    ("a metric of labels does not judge text",
     GENERATION | {f"{TASK}.metric": "Accuracy"}, TASK, "this metric is not for this type of task; choose another"),
    ("a group is not called as the base's own model is",
     {f"{TASK}.group": "base"}, TASK, "group is a reserved name; choose another"),
    ("nor as the single-task models are",
     {f"{TASK}.group": "baseline"}, TASK, "group is a reserved name; choose another"),
    ("a task has validation rows, or a share that becomes them",
     {f"{TASK}.data.validation": ABSENT}, f"{TASK}.data", ROWS_OR_SHARE.format("validation")),
    ("and not both",
     {f"{TASK}.data.split": {"validation": 0.1}}, f"{TASK}.data", ROWS_OR_SHARE.format("validation")),
    ("a task has test rows, or a share that becomes them",
     {f"{TASK}.data.test": ABSENT}, f"{TASK}.data", ROWS_OR_SHARE.format("test")),
    ("a share of another split is none",
     {f"{TASK}.data": {"train": {"uri": DATA}, "split": {"validation": 0.1}}}, f"{TASK}.data",
     ROWS_OR_SHARE.format("test")),
    ("a split names a share",
     {f"{TASK}.data.split": {"seed": 2}}, f"{TASK}.data.split",
     "names no share; set validation or test, or remove it"),
    ("a split leaves rows to train on",
     {f"{TASK}.data": {"train": {"uri": DATA}, "split": {"validation": 0.5, "test": 0.5}}}, f"{TASK}.data.split",
     "validation and test leave no row to train on; their sum must be below 1"),
    ("the lower bound needs seeds that differ",
     {"spec.qualification": {"rule": "LowerBound"}}, "spec",
     "qualification.rule LowerBound needs stages.baseline.seeds of 2 or more"),
    ("only CGC-LoRA has experts",
     {"spec.tuning": {"method": "LoRA", "commonExperts": 1}}, "spec.tuning",
     "commonExperts, specificExperts, expertRank and gate are for method CGCLoRA; remove them or set it"),
    ("and it has one at least",
     {"spec.tuning": {"method": "CGCLoRA", "commonExperts": 0, "specificExperts": 0}}, "spec.tuning",
     "there is no expert at all; set commonExperts or specificExperts to 1 or more"),
    ("8-bit moments are not those of single tasks",
     {"spec.tuning": {"method": "CGCLoRA"}, "spec.training": {"optimizer": "AdamW8bit"}}, "spec",
     "training.optimizer: AdamW8bit is not for tuning.method CGCLoRA; remove it or set another method"),
    ("nor are they divided",
     {"spec.tuning": {"method": "Full"},
      "spec.training": {"optimizer": "AdamW8bit", "sharding": "Always", "gpusPerNode": 2}}, "spec", NOT_DIVIDED),
    ("and a base in 4 bits is not",
     {"spec.tuning": {"quantization": "NF4"}, "spec.training": {"sharding": "Always", "gpusPerNode": 2}}, "spec",
     NOT_DIVIDED),
    ("what is divided has several GPUs",
     {"spec.training": {"sharding": "Always", "nodes": 2, "gpusPerNode": 0}}, "spec.training",
     "sharding: Always needs several GPUs; raise gpusPerNode or nodes, or set Auto"),
    ("only a frozen base can be in 4 bits",
     {"spec.tuning": {"method": "Full", "quantization": "NF4"}}, "spec.tuning",
     "quantization is for a frozen base, and Full trains all weights; remove it or set another method"),
    ("groups by hand need a group for every task",
     {"spec.filtering": {"strategy": "Manual"}}, "spec",
     "filtering.strategy: Manual needs a group for every task; add one"),
    ("only affinities have settings of their own",
     {"spec.filtering": {"strategy": "Type", "rows": 512}}, "spec",
     "filtering.maxGroups, filtering.rows and filtering.diagnosis are for strategy Affinity; remove them"),
    ("types of tasks are never trained together",
     {"spec.filtering": {"strategy": "Affinity", "maxGroups": 1}, "spec.tasks": TWO_TYPES}, "spec",
     "filtering.maxGroups is fewer than the types of tasks, which are never trained together; raise it"),
    ("an answer leaves room for its prompt",
     GENERATION | {f"{TASK}.generation": {"maxNewTokens": 63}, "spec.training": {"maxLength": 64}}, "spec",
     "generation.maxNewTokens of a task leaves no room for a prompt in training.maxLength; change one"),
    ("a built-in base is one of five",
     {"spec.baseModel.uri": "builtin://huge"}, "spec.baseModel.uri",
     "there is no such built-in model; the sizes are micro, tiny, small, 50m, 500m"),
    ("a base of the hub is no data set",
     {"spec.baseModel.uri": "hf://datasets/org/name"}, "spec.baseModel.uri", HUB_BASE),
    ("nor a folder of a repository",
     {"spec.baseModel.uri": "hf://org/name/sub"}, "spec.baseModel.uri", HUB_BASE),
    ("and its revision stands beside it",
     {"spec.baseModel.uri": "hf://org/name@main"}, "spec.baseModel.uri", HUB_BASE),
    ("a GGUF file has a field of its own",
     {"spec.baseModel.uri": "hf://org/name/model.gguf"}, "spec.baseModel.uri", GGUF_URI),
    ("also in a bucket",
     {"spec.baseModel.uri": "s3://bucket/model.gguf"}, "spec.baseModel.uri", GGUF_URI),
    ("which has the name of one",
     {"spec.baseModel": {"uri": "hf://org/name", "ggufFile": "model.bin"}}, "spec.baseModel.ggufFile", GGUF_NAME),
    ("below the address",
     {"spec.baseModel": {"uri": "hf://org/name", "ggufFile": "a/../../m.gguf"}}, "spec.baseModel.ggufFile", GGUF_NAME),
    ("and is a whole one",
     {"spec.baseModel": {"uri": "hf://org/name", "ggufFile": "m-00001-of-00002.gguf"}}, "spec.baseModel.ggufFile",
     "this is one part of a split model; join the parts first"),
    ("a built-in base is in no file",
     {"spec.baseModel": {"uri": "builtin://tiny", "ggufFile": "m.gguf"}}, "spec.baseModel",
     "a builtin:// model is created and not read from a file; remove ggufFile"),
    ("pretraining needs text",
     {"spec.pretraining": {"tasksText": False, "maxSteps": 9}}, "spec.pretraining",
     "there is no text to train on; name a corpus or set tasksText: true"),
]  # fmt: skip

_DATA_SCHEMES = "file://, hf://, s3://, gs://, pvc://"
_KNOWN = {
    "spec.baseModel.uri": "builtin://, file://, hf://, s3://, gs://, pvc://",
    "spec.storage.uri": "file://, s3://, gs://, pvc://",
    f"{TASK}.data.train.uri": _DATA_SCHEMES,
    f"{TASK}.data.validation.uri": _DATA_SCHEMES,
    f"{TASK}.data.test.uri": _DATA_SCHEMES,
    "spec.pretraining.corpus[0].uri": _DATA_SCHEMES,
}
_CORPUS = {"spec.pretraining": {"maxSteps": 9, "corpus": [{"uri": DATA}]}}
for _field, _known in _KNOWN.items():
    _base = _CORPUS if "corpus" in _field else {}
    RULES += [
        (
            "an address has a scheme that is known",
            _base | {_field: "ftp://x"},
            _field,
            f"unknown scheme; supported: {_known}",
        ),
        ("an address names a path", _base | {_field: "s3://"}, _field, "has no path; add one"),
        ("an address is more than spaces", _base | {_field: " "}, _field, "has no path; add one"),
        (
            "a claim is named first",
            _base | {_field: "pvc://My_Claim/a"},
            _field,
            "does not name a PersistentVolumeClaim; write pvc://CLAIM/PATH",
        ),
    ]
    if "hf://" in _known:
        words = "does not name a hub repository; write hf://ORGANISATION/NAME"
        RULES.append(("a hub repository has a name", _base | {_field: "hf://a b"}, _field, words))

WEIGHTS = ("spec.tasks[0].backends", "the weights of a task must sum to 100, or all be 0")
MOVED = ("spec", "storage.uri cannot be changed; create another MultiTaskModel")


def shown(document: Object, field: str, message: str) -> tuple[str, str]:
    """The rule's message as the server says it."""
    value = document
    for part in field.replace("[", ".").replace("]", "").split("."):
        value = value[int(part)] if part.isdigit() else value[part]  # type: ignore[index]
    kind = {dict: "object", list: "array", str: "string"}[type(value)]
    return field, f'Invalid value: "{kind}": {message}'


@pytest.mark.parametrize(
    ("changes", "field", "message"), [row[1:] for row in RULES], ids=[f"{row[0]}, {row[2]}" for row in RULES]
)
def test_a_rule_refuses(rest: httpx.Client, changes: Object, field: str, message: str) -> None:
    document = edit(resources.model(), changes)
    assert shown(document, field, message) in admission.causes(admission.create(rest, document))
    assert admission.python_problems(document), "only the API server refuses it"


@pytest.mark.parametrize("split", [{"validation": 0.1, "test": 0.1, "seed": 1}, {"validation": 0.5, "test": 0.499}])
def test_one_file_for_all_splits_is_accepted(rest: httpx.Client, split: Object) -> None:
    document = edit(resources.model(), {f"{TASK}.data": {"train": {"uri": DATA}, "split": split}})
    assert admission.causes(admission.create(rest, document)) == []
    assert admission.python_problems(document) == []


@pytest.mark.parametrize("weights", [(90,), (50, 60), (0, 1)])
def test_the_weights_of_a_route_must_sum_to_100_or_0(rest: httpx.Client, weights: tuple[int, ...]) -> None:
    document = resources.route()
    (backend,) = document["spec"]["tasks"][0]["backends"]
    document["spec"]["tasks"][0]["backends"] = [backend | {"weight": weight} for weight in weights]
    assert admission.causes(admission.create(rest, document)) == [shown(document, *WEIGHTS)]


def test_every_rule_is_tested_here() -> None:
    tested = {(admission.pattern(row[2]), row[3]) for row in RULES} | {MOVED}
    assert tested == rules_of("MultiTaskModel")
    assert {(admission.pattern(WEIGHTS[0]), WEIGHTS[1])} == rules_of("TaskRoute")


def rules_of(kind: str) -> set[tuple[str, str]]:
    """(path, message) of every rule of a CRD."""
    return {
        (path, rule["message"])
        for path, node in nodes(admission.schema(kind))
        for rule in node.get("x-kubernetes-validations", ())
    }


OTHER = {"uri": "s3://other/models"}


@pytest.mark.parametrize("change", [{"uri": "pvc://models/elsewhere"}, OTHER])
def test_storage_cannot_be_changed(rest: httpx.Client, namespace: str, change: Object) -> None:
    path = stored(rest, namespace)
    answer = patch(rest, path, {"spec": {"storage": change}})
    assert admission.causes(answer) == [(MOVED[0], f'Invalid value: "object": {MOVED[1]}')]


def test_storage_cannot_be_changed_by_taking_it_away_first(rest: httpx.Client, namespace: str) -> None:
    path = stored(rest, namespace)
    assert admission.causes(patch(rest, path, {"spec": {"storage": None}})) == [("spec.storage", "Required value")]
    uri = [("spec.storage.uri", "Required value")]
    assert admission.causes(patch(rest, path, {"spec": {"storage": {"uri": None}}})) == uri


def test_what_else_storage_says_may_change(rest: httpx.Client, namespace: str) -> None:
    path = stored(rest, namespace)
    assert admission.causes(patch(rest, path, {"spec": {"storage": {"retain": False, "keepRevisions": 9}}})) == []


def stored(rest: httpx.Client, namespace: str) -> str:
    """The path of a model that exists."""
    answer = admission.create(rest, resources.model(), namespace, dry=False)
    assert answer.is_success, answer.text
    return f"{admission.BASE}/{namespace}/multitaskmodels/desk"


def patch(rest: httpx.Client, path: str, change: Object) -> httpx.Response:
    return rest.patch(path, json=change, headers={"Content-Type": "application/merge-patch+json"})
