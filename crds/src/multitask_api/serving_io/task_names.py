"""Which task has which name. The gateways route by this, and the operator says by it which names are taken. Pure.

A task has the full name ``namespace/model/task``, and the short names ``model/task`` and ``task`` unless an older
resource has them: by creation time, then by UID, so that all gateways and the operator decide alike.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NameClaim:
    """A TaskRoute or its model, which claims names for its tasks.

    ``created`` and ``uid`` are those of its metadata: ``2026-11-27T20:54:46Z``. Claims without them keep their order.
    """

    namespace: str
    model: str
    tasks: tuple[str, ...]
    created: str = ""
    uid: str = ""


@dataclass(frozen=True, slots=True)
class NameTaken:
    """A name that a task does not get. ``owner``: the full name of the task that has it; empty if the namespace of the
    task may not claim short names."""

    name: str
    owner: str


@dataclass(frozen=True, slots=True)
class TaskNames:
    """The names of one task: the longest first. No names: an older resource has even the full one."""

    claim: NameClaim
    task: str
    names: tuple[str, ...]
    taken: tuple[NameTaken, ...] = ()


def any_namespace(_: str) -> bool:
    """The default of ``may_be_short``."""
    return True


def short_names_in(namespaces: Collection[str]) -> Callable[[str], bool]:
    """The ``may_be_short`` of an installation that lists ``namespaces``; none: all."""
    return frozenset(namespaces).__contains__ if namespaces else any_namespace


def assign_names(
    claims: Iterable[NameClaim], may_be_short: Callable[[str], bool] = any_namespace
) -> tuple[TaskNames, ...]:
    """The names of all tasks, those of the oldest claim first.

    ``may_be_short``: whether the tasks of a namespace may have short names.
    """
    owners: dict[str, tuple[NameClaim, str]] = {}
    assigned = []
    for claim in sorted(claims, key=lambda claim: (claim.created, claim.uid)):
        for task in claim.tasks:
            full = f"{claim.namespace}/{claim.model}/{task}"
            names: list[str] = []
            taken: list[NameTaken] = []
            for name in (full, f"{claim.model}/{task}", task):
                if taken and taken[0].name == full:
                    break
                if name != full and not may_be_short(claim.namespace):
                    taken.append(NameTaken(name, ""))
                elif (owner := owners.setdefault(name, (claim, full)))[0] is claim and owner[1] == full:
                    names.append(name)
                else:
                    taken.append(NameTaken(name, owner[1]))
            assigned.append(TaskNames(claim, task, tuple(names), tuple(taken)))
    return tuple(assigned)
