"""The base class of every type that crosses a process boundary, and the type of JSON objects that have no class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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

    def to_json(self) -> dict[str, object]:
        """The record as JSON-ready data under its external (camelCase) names; absent fields are left out."""
        data: dict[str, object] = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        return data
