"""The schema of the chart's values, made of values.yaml and a file of rules."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "tools"))

from generate_values_schema import RulesError, values_schema

VALUES = """\
# How many.
# At least one.
replicas: 2
ports: [443]
tls:
  # By whom.
  mode: Generated
  labels: {}
"""
RULES = {
    "definitions": {"strings": {"type": "object", "additionalProperties": {"type": "string"}}},
    "values": {
        "replicas": {"minimum": 1},
        "ports": {"items": {"type": "integer"}},
        "*mode": {"enum": ["Generated", "None"]},
        "*labels": {"use": "strings"},
    },
}


def test_types_come_from_values_descriptions_from_comments_and_the_rest_from_rules() -> None:
    schema = values_schema(VALUES, RULES)
    assert schema["additionalProperties"] is False
    assert schema["definitions"] == RULES["definitions"]
    assert schema["properties"].pop("global")["type"] == "object"
    assert schema["properties"] == {
        "replicas": {"type": "integer", "minimum": 1, "description": "How many. At least one."},
        "ports": {"type": "array", "items": {"type": "integer"}},
        "tls": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "mode": {"enum": ["Generated", "None"], "description": "By whom."},
                "labels": {"allOf": [{"$ref": "#/definitions/strings"}]},
            },
        },
    }


@pytest.mark.parametrize(
    ("values", "added", "named"),
    [
        ("annotations: {}\n", {}, "annotations"),
        ("hosts: []\n", {}, "items of hosts"),
        ("", {"replica": {"minimum": 1}}, "without a value: replica"),
    ],
)
def test_what_nothing_describes_and_what_describes_nothing_is_an_error(
    values: str, added: dict[str, Any], named: str
) -> None:
    with pytest.raises(RulesError, match=named):
        values_schema(VALUES + values, {**RULES, "values": {**RULES["values"], **added}})
