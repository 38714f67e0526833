"""What a caller may call. Pure.

A grant is a pattern ``NAMESPACE/MODEL/TASK``. A part that is left out at the end stands for all: ``team-a`` is every
task of every model in the namespace. ``*`` in a part stands for any characters but the slash.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

_PATTERN = re.compile(r"[a-z0-9.*-]+(/[a-z0-9.*-]+){0,2}")
_PARTS = 3


def grant_error(pattern: str) -> str | None:
    """Why ``pattern`` is no grant; None if it is one."""
    if _PATTERN.fullmatch(pattern):
        return None
    return f"{pattern!r} is not NAMESPACE, NAMESPACE/MODEL or NAMESPACE/MODEL/TASK, with * for any name"


def matches(pattern: str, value: str) -> bool:
    """Whether ``value`` is ``pattern``, in which each ``*`` stands for any characters but a slash."""
    return _expression(pattern).fullmatch(value) is not None


@functools.lru_cache(maxsize=65536)
def _expression(pattern: str) -> re.Pattern[str]:
    """Patterns stand in the file of callers only, and every call asks many of them."""
    return re.compile("[^/]*".join(map(re.escape, pattern.split("*"))))


@dataclass(frozen=True)
class Caller:
    """Somebody who is known: a ``name`` for logs, and grants."""

    name: str
    allow: Sequence[str] = field(default=())

    def may_call(self, full_name: str) -> bool:
        """Whether a grant covers the task ``NAMESPACE/MODEL/TASK``."""
        parts = full_name.split("/")
        return any(_covers(grant.split("/"), parts) for grant in self.allow)

    @property
    def may_call_everything(self) -> bool:
        """Whether a grant covers every task there can be."""
        return any(set(grant.split("/")) == {"*"} for grant in self.allow)


def _covers(grant: Sequence[str], parts: Sequence[str]) -> bool:
    return len(parts) == _PARTS and all(map(matches, grant, parts))
