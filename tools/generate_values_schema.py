"""Writes the chart's values.schema.json from values.yaml: its comments are the descriptions, its values give the types.

What they do not show stands in values_rules.yaml: limits, patterns, and what may stand in lists and open objects.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).resolve().parents[1] / "helm" / "multitask-operator"
RULES = Path(__file__).with_name("values_rules.yaml")
#: Helm gives every chart these values of the chart that includes it.
_GLOBAL = {"type": "object", "description": "Values of a chart that includes this one."}
_TYPES = {bool: "boolean", int: "integer", str: "string"}
Schema = dict[str, Any]


class RulesError(Exception):
    """A value that no rule describes, or a rule without a value."""


def values_schema(values: str, rules: Mapping[str, Any]) -> Schema:
    """The schema of a values file. Raises RulesError.

    Every object is closed, and every list has its items described; a rule says what else there may be.
    """
    unused = set(rules["values"])
    comments = _comments(values)

    def of(path: str, value: Any) -> Schema:
        matching = {pattern: rule for pattern, rule in rules["values"].items() if fnmatchcase(path, pattern)}
        unused.difference_update(matching)
        rule: Schema = {}
        for each in matching.values():
            # A definition is whole: nothing is added to it, and a later rule may take its place.
            rule = dict(each) if "use" in each or "use" in rule else {**rule, **each}
        description = {"description": comments[path]} if path in comments else {}
        if "use" in rule or "enum" in rule:
            return {**_references(rule), **description}
        if isinstance(value, dict):
            if not value:
                raise RulesError(f"{RULES.name} does not say what {path} may have")
            derived = {
                "type": "object",
                "additionalProperties": False,
                "properties": {name: of(f"{path}.{name}", each) for name, each in value.items()},
            }
        elif isinstance(value, list):
            if "items" not in rule:
                raise RulesError(f"{RULES.name} does not say what the items of {path} are")
            derived = {"type": "array"}
        else:
            derived = {"type": _TYPES[type(value)]}
        return {**derived, **_references(rule), **description}

    properties = {name: of(name, value) for name, value in yaml.safe_load(values).items()}
    if unused:
        raise RulesError(f"{RULES.name} has rules without a value: {', '.join(sorted(unused))}")
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "additionalProperties": False,
        "definitions": {name: _references(each) for name, each in rules["definitions"].items()},
        "properties": {"global": _GLOBAL, **properties},
    }


def _references(rule: Any) -> Any:
    """The rule with ``{use: NAME}`` as a reference. ``allOf``: draft 7 ignores what stands beside a ``$ref``."""
    if isinstance(rule, dict):
        if "use" in rule:
            return {"allOf": [{"$ref": f"#/definitions/{rule['use']}"}]}
        return {name: _references(each) for name, each in rule.items()}
    return [_references(each) for each in rule] if isinstance(rule, list) else rule


def _comments(text: str) -> dict[str, str]:
    """Path of a value → the comment right above it."""
    lines = text.splitlines()
    found: dict[str, str] = {}

    def visit(node: yaml.Node, prefix: str) -> None:
        if not isinstance(node, yaml.MappingNode):
            return
        for key, value in node.value:
            path, mark = f"{prefix}{key.value}", key.start_mark
            above = []
            for line in reversed(lines[: mark.line]):
                if not line.startswith(f"{' ' * mark.column}# "):
                    break
                above.insert(0, line.strip().removeprefix("# "))
            if above and not lines[mark.line][: mark.column].strip():
                found[path] = " ".join(above)
            visit(value, f"{path}.")

    visit(yaml.compose(text, yaml.SafeLoader), "")
    return found


def main() -> None:
    """Write the file."""
    values = (CHART / "values.yaml").read_text("utf-8")
    schema = values_schema(values, yaml.safe_load(RULES.read_text("utf-8")))
    text = json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
    (CHART / "values.schema.json").write_text(text, "utf-8")


if __name__ == "__main__":
    main()
