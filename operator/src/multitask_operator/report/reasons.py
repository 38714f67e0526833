"""The reasons of the routes; one that several routes have is given once. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from multitask_api.report import ReportTask

_SCORE = re.compile(r"\d\.\d")


@dataclass(frozen=True)
class SharedReasons:
    """``own``: task → its reason without the parts that ``shared`` has; ``shared``: such a part → its tasks."""

    own: dict[str, str]
    shared: dict[str, list[str]]


def shared_reasons(tasks: Sequence[ReportTask]) -> SharedReasons:
    """A reason is parts with semicolons between them; a part of two tasks or more is shared, unless it has scores."""
    parts = {task.name: task.reason.split("; ") if task.reason else [] for task in tasks}
    found: dict[str, list[str]] = {}
    for name, own in parts.items():
        for part in own:
            found.setdefault(part, []).append(name)
    shared = {part: names for part, names in found.items() if len(names) > 1 and not _SCORE.search(part)}
    return SharedReasons(
        own={name: "; ".join(part for part in own if part not in shared) for name, own in parts.items()}, shared=shared
    )
