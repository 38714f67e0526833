"""The tasks of a resource whose rows can be checked, though the resource as a whole is not valid."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from multitask_api.resource.tasks import TaskSpec

_READ_BY_DATA_CHECK = ("type", "labels", "prompt", "data")


def sound_tasks(document: Mapping[str, Any]) -> dict[int, TaskSpec]:
    """Index → task, for the tasks in which everything is valid that says how their rows must look.

    Their names are placeholders, because a wrong name is no reason to leave the rows unchecked.
    """
    spec = document.get("spec")
    tasks = spec.get("tasks") if isinstance(spec, Mapping) else None
    sound: dict[int, TaskSpec] = {}
    for index, task in enumerate(tasks if isinstance(tasks, list) else ()):
        kept = {name: task[name] for name in _READ_BY_DATA_CHECK if name in task} if isinstance(task, Mapping) else {}
        try:
            sound[index] = TaskSpec.from_document({"name": f"task-{index}", **kept})
        except ValidationError:
            continue
    return sound
