"""Which tasks are trained together, from their affinities. Pure.

Two tasks are *opposed* if the whole interval of their affinity lies below -`HARM`. Groups are joined, beginning with
one a task: always the two with the highest mean affinity between their tasks, of those without an opposed pair between
them (average linkage under cannot-link constraints). So nothing is put apart by noise: without an opposed pair all
tasks are one group. If that leaves more than ``max_groups``, those are joined that hurt each other least.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from multitask_api.stages.digests import digest
from multitask_trainer.affinity.estimate import Affinities

HARM = 0.1
"""A step on one task undoes more than this part of what a step of that length on the other would gain."""
_LONGEST_NAME = 63
_MOST_REASONS = 20

Group = tuple[str, ...]


@dataclass(frozen=True)
class Grouping:
    """``groups``: name → tasks, in the order of the candidates; ``reasons``: why they are as they are."""

    groups: dict[str, Group]
    reasons: tuple[str, ...]


def find_groups(candidates: Mapping[str, Sequence[str]], affinities: Affinities, max_groups: int | None) -> Grouping:
    """``candidates``: name → the tasks that may be trained together; at least as many groups as these are left."""
    table = _Table(affinities)
    found = {name: _join(tasks, table) for name, tasks in candidates.items()}
    while max_groups is not None and sum(map(len, found.values())) > max_groups:
        choices = [(name, pair) for name, groups in found.items() for pair in combinations(groups, 2)]
        if not choices:
            break
        name, pair = max(choices, key=lambda choice: -table.harm(*choice[1]))
        found[name] = _joined(found[name], pair)
    groups: dict[str, Group] = {}
    for name, tasks in candidates.items():
        order = {task: position for position, task in enumerate(tasks)}
        members = [tuple(sorted(group, key=order.__getitem__)) for group in found[name]]
        ordered = sorted(members, key=lambda group: order[group[0]])
        groups |= {_name(name, group, is_first=not number): group for number, group in enumerate(ordered)}
    return Grouping(groups, tuple(_reasons(candidates, groups, table, max_groups)))


@dataclass(frozen=True)
class _Table:
    affinities: Affinities

    def value(self, task: str, other: str) -> float:
        return float(self.affinities.values[self._at(task, other)])

    def half_width(self, task: str, other: str) -> float:
        return float(self.affinities.half_widths[self._at(task, other)])

    def is_opposed(self, task: str, other: str) -> bool:
        return self.value(task, other) + self.half_width(task, other) < -HARM

    def may_join(self, first: Group, second: Group) -> bool:
        return not any(self.is_opposed(task, other) for task in first for other in second)

    def mean(self, first: Group, second: Group) -> float:
        values = [self.value(task, other) for task in first for other in second]
        return sum(values) / len(values)

    def harm(self, first: Group, second: Group) -> float:
        """The sum of what opposed tasks do to each other."""
        pairs = [(task, other) for task in first for other in second]
        return sum(-self.value(*pair) for pair in pairs if self.is_opposed(*pair))

    def _at(self, task: str, other: str) -> tuple[int, int]:
        return self.affinities.tasks.index(task), self.affinities.tasks.index(other)


def _join(tasks: Sequence[str], table: _Table) -> list[Group]:
    groups: list[Group] = [(task,) for task in tasks]
    while pairs := [pair for pair in combinations(groups, 2) if table.may_join(*pair)]:
        groups = _joined(groups, max(pairs, key=lambda pair: table.mean(*pair)))
    return groups


def _joined(groups: Sequence[Group], pair: tuple[Group, Group]) -> list[Group]:
    return [*(group for group in groups if group not in pair), pair[0] + pair[1]]


def _name(candidate: str, group: Group, *, is_first: bool) -> str:
    """The group of the first task keeps the name, so that a group that nothing divides is called as under Type. Another
    is called after its own first task: what happens to other groups does not change it, and it is not trained again."""
    if is_first:
        return candidate
    name = f"{candidate}-{group[0]}"
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 9].rstrip('-')}-{digest(name, 8)}"


def _reasons(
    candidates: Mapping[str, Sequence[str]], groups: Mapping[str, Group], table: _Table, max_groups: int | None
) -> list[str]:
    group_of = {task: name for name, tasks in groups.items() for task in tasks}
    pairs = [pair for tasks in candidates.values() for pair in combinations(tasks, 2) if table.is_opposed(*pair)]
    sentences: list[str] = []
    for task, other in sorted(pairs, key=lambda pair: table.value(*pair)):
        figure = f"affinity {table.value(task, other):.2f} ± {table.half_width(task, other):.2f}"
        if group_of[task] != group_of[other]:
            sentences.append(f"{task} and {other} are apart: {figure}")
        else:
            sentences.append(
                f"{task} and {other} oppose each other ({figure}) and are together: maxGroups is {max_groups}"
            )
    more = len(sentences) - _MOST_REASONS
    return sentences if more <= 0 else [*sentences[:_MOST_REASONS], f"{more} more pairs oppose each other"]
