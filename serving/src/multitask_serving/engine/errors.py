"""Errors in requests, templates and bundles."""

from __future__ import annotations

import difflib
from collections.abc import Collection

from multitask_api.errors import UserError


class TemplateError(UserError):
    """A prompt template cannot be parsed or compiled."""


class LabelError(UserError):
    """A label is empty, or two labels of a task have the same token ids."""


class MissingField(UserError):
    """A request lacks a field that the task's prompt uses."""

    def __init__(self, field: str, known: Collection[str], given: Collection[str]) -> None:
        self.field = field
        self.known = tuple(known)
        self.given = tuple(given)
        super().__init__(
            f"field {field!r} is missing: the prompt uses {', '.join(self.known)}; "
            f"the request gives {', '.join(self.given) or 'no field'}. Add {field!r} to the request"
        )


class InvalidField(UserError):
    """A request's field is not text."""

    def __init__(self, field: str, kind: str) -> None:
        self.field = field
        super().__init__(f"field {field!r} is {kind}, and the prompt needs text. Send it as a string")


class PromptTooLong(UserError):
    """The template's own text leaves no room for the fields or the answer."""


class EmptyPrompt(UserError):
    """Template and fields together have no token, so nothing precedes the answer."""


class UnknownTask(UserError):
    """No task of this name is served; ``nearest`` holds up to three similar names."""

    def __init__(self, task: str, known: Collection[str]) -> None:
        self.task = task
        self.nearest = tuple(difflib.get_close_matches(task, list(known), n=3, cutoff=0.5))
        hint = (
            f"did you mean {' or '.join(self.nearest)}?" if self.nearest else f"served: {', '.join(sorted(known)[:10])}"
        )
        super().__init__(f"no task {task!r} is served here; {hint}")


class WrongTaskType(UserError):
    """A generation task was called with ``classify``, or a classification task with ``generate``."""

    def __init__(self, task: str, type_: str) -> None:
        self.task = task
        call = "classify" if type_ == "Classification" else "generate"
        super().__init__(f"task {task!r} is of type {type_}; call {call} instead")


class InvalidSampling(UserError):
    """A sampling setting is outside its range."""


class InvalidBundle(UserError):
    """A bundle's files do not fit its description."""
