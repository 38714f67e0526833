"""What a mixture with ``start: Previous`` began with."""

from __future__ import annotations

from pydantic import Field

from multitask_api.types import Record


class MixtureStart(Record):
    """The earlier mixture whose weights a mixture began with."""

    digest: str
    tasks: tuple[str, ...] = Field(description="The tasks of its training, and of the mixtures that it began with.")
    rows_given: dict[str, int] = Field(description="Task → training rows drawn in all of them, without stage 2.")
