"""The JSON shape of a record: its keys, which of them are required, and what their values are."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

Schema = dict[str, Any]


def shape(record: type[BaseModel]) -> Any:
    """``{"key": "string", "optional?": ["integer"], "map": {"*": "number"}}``, with all records inside it spelled out.

    Taken from pydantic's JSON schema, so names are those in JSON. Limits, patterns and descriptions are left out.
    """
    schema = record.model_json_schema(by_alias=True)
    return _shape(schema, schema.get("$defs", {}))


def _shape(schema: Schema, definitions: Schema) -> Any:
    if "$ref" in schema:
        return _shape(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    if "const" in schema:
        return str(schema["const"])
    if "enum" in schema:
        return " | ".join(str(value) for value in schema["enum"])
    if "anyOf" in schema:
        return _union([_shape(each, definitions) for each in schema["anyOf"] if each != {"type": "null"}])
    match schema.get("type"):
        case "object":
            return _object(schema, definitions)
        case "array":
            items = schema.get("prefixItems") or [schema["items"]]
            return [_shape(item, definitions) for item in items]
        case str(kind):
            return kind
    return "anything"


def _union(shapes: list[Any]) -> Any:
    if len(shapes) == 1:
        return shapes[0]
    return {"one of": shapes} if any(not isinstance(each, str) for each in shapes) else " | ".join(shapes)


def _object(schema: Schema, definitions: Schema) -> Any:
    if "properties" in schema:
        required = schema.get("required", ())
        return {
            name if name in required else f"{name}?": _shape(value, definitions)
            for name, value in schema["properties"].items()
        }
    values = schema.get("additionalProperties", {})
    return {"*": _shape(values if isinstance(values, dict) else {}, definitions)}
