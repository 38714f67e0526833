"""The generated CRDs: as committed, structural, bounded, described, and with the defaults that the rules need."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from multitask_api import crd
from multitask_api.crd.__main__ import main
from multitask_api.crd.cel_rules import Rule
from multitask_api.crd.schema import structural
from multitask_api.resource.model import MultiTaskModel

FOLDER = Path(__file__).parents[3] / "crds"
NAMES = ("multitask.dev_multitaskmodels.yaml", "multitask.dev_taskroutes.yaml")
Schema = dict[str, Any]


def schema_of(name: str) -> Schema:
    schema: Schema = crd.definitions()[name]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return schema


def at(path: str) -> Schema:
    schema = schema_of(NAMES[0])
    for part in path.replace("[]", ".[]").split("."):
        schema = schema["items"] if part == "[]" else schema["properties"][part]
    return schema


def nodes(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    yield path, schema
    for name, item in schema.get("properties", {}).items():
        yield from nodes(item, f"{path}.{name}")
    if "items" in schema:
        yield from nodes(schema["items"], f"{path}[]")


@pytest.mark.parametrize("name", NAMES)
def test_the_committed_files_are_the_generated_ones(name: str, tmp_path: Path) -> None:
    assert main(["--out", str(tmp_path)]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(NAMES)
    assert (FOLDER / name).read_text("utf-8") == (tmp_path / name).read_text("utf-8")
    assert yaml.safe_load((FOLDER / name).read_text("utf-8")) == crd.definitions()[name]


@pytest.mark.parametrize("name", NAMES)
def test_the_schema_is_structural_and_bounded(name: str) -> None:
    for path, node in nodes(schema_of(name)):
        if path == ".spec.serving.rollout.steps[]":
            assert node == {"x-kubernetes-preserve-unknown-fields": True}, "percentages and objects"
            continue
        if node.get("x-kubernetes-int-or-string"):
            assert "pattern" in node, path
            continue
        assert node["type"] in ("object", "array", "string", "integer", "number", "boolean"), path
        assert not node.keys() & {"$ref", "anyOf", "allOf", "oneOf", "title", "const", "additionalProperties"}, path
        assert node.get("default", 0) is not None, path
        if path.startswith(".spec"):
            if node["type"] == "array":
                assert "maxItems" in node, path
            if node["type"] == "string":
                assert "maxLength" in node or "enum" in node or "pattern" in node, path
            if node["type"] == "object":
                assert "properties" in node or node["x-kubernetes-preserve-unknown-fields"], path


@pytest.mark.parametrize("name", NAMES)
def test_every_field_has_a_description(name: str) -> None:
    """Lists of plain values are described as a whole; metadata is described by Kubernetes."""
    empty = [
        path
        for path, node in nodes(schema_of(name))
        if not path.startswith(".metadata")
        and not (path.endswith("[]") and "properties" not in node)
        and not node.get("description", "").strip()
    ]
    assert empty == [], "give them Field(description=…)"


@pytest.mark.parametrize("name", NAMES)
def test_descriptions_are_sentences_without_markup(name: str) -> None:
    for path, node in nodes(schema_of(name)):
        text = node.get("description", "A sentence.")
        assert text.endswith("."), f"{path}: {text}"
        assert "``" not in text, f"{path}: {text}"


@pytest.mark.parametrize("name", NAMES)
def test_it_fits_an_annotation_of_client_side_apply(name: str) -> None:
    assert len(json.dumps(crd.definitions()[name])) < 256 * 1024


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("spec", {"required": ["baseModel", "storage", "tasks"]}),
        ("spec.tasks", {"maxItems": 128, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}),
        ("spec.tasks[].labels", {"maxItems": 256, "x-kubernetes-list-type": "set"}),
        ("spec.tasks[].name", {"type": "string", "maxLength": 63, "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"}),
        ("spec.tasks[].taxonomy", {"type": "string", "enum": ["Binary", "Ordinal", "MultiClass"]}),
        ("spec.stages", {"default": {}}),
        ("spec.stages.mixture.temperature", {"type": "number", "minimum": 1, "maximum": 100, "default": 2.0}),
        ("spec.stages.mixture.maxSteps", {"type": "integer", "minimum": 1}),
        ("spec.qualification.threshold", {"minimum": 0, "exclusiveMinimum": True, "maximum": 1, "default": 0.99}),
        ("spec.training.seed", {"type": "integer", "minimum": 0, "maximum": 2**31 - 1, "default": 17}),
        ("spec.training.podTemplate", {"type": "object", "x-kubernetes-preserve-unknown-fields": True}),
        ("spec.serving.rollout.steps", {"minItems": 1, "maxItems": 32, "default": [10, 50, 100]}),
        ("status.conditions", {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}),
    ],
)
def test_a_field_of_the_schema(path: str, expected: Schema) -> None:
    node = at(path)
    assert {key: node.get(key) for key in expected} == expected


@pytest.mark.parametrize(
    ("path", "expression"),
    [
        ("spec.tasks[]", "!has(self.group) || !(self.group in ['base', 'baseline'])"),
        ("spec", "self.storage.uri == oldSelf.storage.uri"),
        ("spec", "self.qualification.rule != 'LowerBound' || self.stages.baseline.seeds >= 2"),
        ("spec", "self.filtering.strategy != 'Manual' || self.tasks.all(task, has(task.group))"),
        ("spec.tasks[]", "has(self.prompt) != has(self.promptFrom)"),
        (
            "spec.baseModel.uri",
            "!self.matches('^[A-Za-z][A-Za-z0-9+.-]*://') || self.matches('^(?i:builtin|file|hf|s3|gs|pvc)://')",
        ),
    ],
)
def test_a_rule_between_fields(path: str, expression: str) -> None:
    assert expression in [rule["rule"] for rule in at(path)["x-kubernetes-validations"]]


def test_fields_that_a_rule_reads_without_has_are_always_there() -> None:
    """A CEL rule that reads an absent field fails with an unhelpful error; with a default the field is never absent."""
    for path in ("qualification", "stages", "stages.baseline", "filtering"):
        assert at(f"spec.{path}")["default"] == {}, path
    for path in ("qualification.rule", "stages.baseline.seeds", "filtering.strategy"):
        assert "default" in at(f"spec.{path}"), path


def test_a_rule_for_a_field_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"rules for fields that do not exist: spec\.gone"):
        structural(MultiTaskModel, {"spec.gone": (Rule("true", ""),)})


def test_columns_and_names_for_kubectl() -> None:
    definition = crd.definitions()[NAMES[0]]["spec"]
    version = definition["versions"][0]
    columns = [column["name"] for column in version["additionalPrinterColumns"]]
    assert columns == ["Stage", "Progress", "Qualified", "Trained", "Served", "Ready", "Age"]
    scale = {
        "specReplicasPath": ".spec.serving.replicas",
        "statusReplicasPath": ".status.serving.replicas",
        "labelSelectorPath": ".status.serving.selector",
    }
    assert version["subresources"] == {"status": {}, "scale": scale}
    assert definition["names"]["shortNames"] == ["mtm"]
    assert definition["names"]["categories"] == ["multitask"]
