"""The base class of every type that crosses a process boundary, and the type of JSON objects that have no class."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

JsonObject = Mapping[str, Any]
"""A JSON object that is only read: a Kubernetes object or a part of one, an Event, a row."""

JsonDict = dict[str, Any]
"""A JSON object that is being built."""


class Record(BaseModel):
    """A frozen record: snake_case in Python, camelCase in JSON and YAML; unknown fields are errors.

    ``NaN`` and infinities are errors too: a number that could not be determined is left out, and another field has the
    reason.
    """

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        ser_json_inf_nan="null",
    )

    @classmethod
    def from_document(cls, document: object, *, by_name: bool = False) -> Self:
        """The record that a person wrote as YAML or JSON, checked as strictly as Kubernetes checks it.

        Only external (camelCase) names are known, unless ``by_name``; "8" is not a number, and 8 is not a string. By
        way of JSON, because there a list is a tuple. Raises pydantic.ValidationError.
        """
        return cls.model_validate_json(json.dumps(document), strict=True, by_alias=True, by_name=by_name)

    def to_json(self) -> dict[str, object]:
        """The record as JSON-ready data under its external (camelCase) names; absent fields are left out."""
        data: dict[str, object] = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        return data
