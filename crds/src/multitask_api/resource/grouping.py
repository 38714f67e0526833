"""Task filtering by what tasks declare (stage 1 of arXiv 2411.03644), and what a tuning method needs of the groups."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from multitask_api.errors import Problem
from multitask_api.resource.tasks import TaskSpec
from multitask_api.resource.tuning import Tuning, ranks_near

_TAXONOMY_GROUPS = {"Binary": "binary", "Ordinal": "ordinal", "MultiClass": "multi-class", None: "generation"}


def group_tasks(tasks: Sequence[TaskSpec], strategy: str) -> dict[str, tuple[str, ...]]:
    """Group name → task names, both in the order of ``tasks``; under Affinity those that may be trained together."""
    by_group: dict[str, list[str]] = {}
    for task in tasks:
        by_group.setdefault(_group_of(task, strategy), []).append(task.name)
    return {name: tuple(names) for name, names in by_group.items()}


def groups_are_known(tasks: Sequence[TaskSpec], strategy: str) -> bool:
    """Whether ``tasks`` say what `group_tasks` reads: the labels of a ConfigMap are not known before they are read."""
    if strategy == "Manual":
        return all(task.group is not None for task in tasks)
    if strategy == "Taxonomy":
        return all(task.type == "Generation" or task.taxonomy is not None or task.labels for task in tasks)
    return True


def rank_problems(tuning: Tuning, groups: Mapping[str, Sequence[str]]) -> Iterator[Problem]:
    """At most one problem of ``tuning.rank``: the groups among whose experts it cannot be divided.

    A group of one task has no experts (`Tuning.for_group`).
    """
    sizes = {name: len(tasks) for name, tasks in groups.items() if len(tasks) > 1}
    wrong = {name: problem for name, size in sizes.items() if (problem := tuning.rank_problem(size))}
    if not wrong:
        return
    text = "; ".join(f"group {name}: {problem}" for name, problem in wrong.items())
    if len(sizes) > 1:
        fitting = ranks_near(tuning.rank, math.lcm(*(tuning.experts(size) for size in sizes.values())))
        ranks = f"; {' or '.join(map(str, fitting))} fits all groups" if fitting else "; no rank fits all groups"
        text += ranks
    yield Problem("tuning.rank", text)


def any_group_problems(tuning: Tuning, most: int) -> Iterator[Problem]:
    """At most one problem of ``tuning``: with groups of any size up to ``most`` tasks, because they are found later."""
    wrong = next((size for size in range(2, most + 1) if tuning.rank_problem(size)), None)
    if wrong is not None:
        yield Problem(
            "tuning.expertRank",
            f"filtering.strategy Affinity finds the groups during the run, and rank {tuning.rank} cannot be divided"
            f" among {tuning.experts(wrong)} experts, those of a group of {wrong} tasks; set it, for example to"
            f" {max(1, tuning.rank // tuning.experts(most))}",
        )


def _group_of(task: TaskSpec, strategy: str) -> str:
    if strategy == "None":
        return "all"
    if strategy == "Manual":
        if task.group is None:
            raise ValueError(f"task {task.name}: filtering.strategy Manual needs a group")
        return task.group
    if strategy == "Taxonomy":
        return _TAXONOMY_GROUPS[task.resolved_taxonomy]
    return task.type.lower()
