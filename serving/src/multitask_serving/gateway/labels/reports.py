"""Which reported labels count, and what they say about an answer."""

from __future__ import annotations

from collections.abc import Callable

from multitask_api.errors import Problem
from multitask_serving.gateway.errors import InvalidRequest
from multitask_serving.gateway.labels.request_ids import RequestIds, label_digest
from multitask_serving.gateway.routes import Route
from multitask_serving.gateway.stats import Stats

REMEMBERED = 65_536
"""Answers whose label has come and that a gateway knows of, so that none counts twice: some 10 MiB."""

_MAX_REPORTED = 16
_LONGEST_SHOWN = 64


class LabelReports:
    """Gives ids to answers, and counts the labels that are reported for them in ``stats``.

    Of a label that was counted it remembers eight random bytes, and those of at most ``remembered`` labels.
    """

    def __init__(self, key: bytes, stats: Stats, remembered: int = REMEMBERED) -> None:
        self._ids = RequestIds(key)
        self._stats = stats
        self._remembered = remembered
        self._reported: dict[bytes, None] = {}

    def request_id(self, route: Route, revision: str, label: str, *, pinned: bool) -> str:
        """The id of an answer. ``pinned``: the caller asked for the revision."""
        return self._ids.issue(route.full_name, revision, route.task.window or "", label, is_sample=not pinned)

    def report(self, request_id: str, label: str, resolve: Callable[[str], Route]) -> bool:
        """Whether the label counted. One does not if its request was pinned to a revision, if the rollout in which it
        was answered is over, or if it has come before.

        ``resolve`` gives the route of a full name, and raises a `StatusError` if the caller may not call the task.
        Raises `InvalidRequest`.
        """
        answered = self._ids.read(request_id)
        digest = _checked(resolve(answered.task), label)
        if not answered.is_sample or answered.nonce in self._reported:
            return False
        is_right = digest == answered.answer
        counts = self._stats.count_label(answered.task, answered.revision, answered.window, is_right=is_right)
        if counts:
            self._reported[answered.nonce] = None
            if len(self._reported) > self._remembered:
                del self._reported[next(iter(self._reported))]
        return counts


def _checked(route: Route, label: str) -> bytes:
    """The digest of a label that the task has. Raises `InvalidRequest`."""
    task = route.task
    if task.type != "Classification":
        problem = f"task {route.name!r} is a {task.type.lower()} task; labels are reported for classification tasks"
        raise InvalidRequest([Problem("request_id", problem)])
    digest = label_digest(label)
    if digest not in map(label_digest, task.labels):
        shown = ", ".join(map(repr, task.labels[:_MAX_REPORTED]))
        more = f" and {len(task.labels) - _MAX_REPORTED} more" if len(task.labels) > _MAX_REPORTED else ""
        problem = f"{label[:_LONGEST_SHOWN]!r} is not a label of task {route.name!r}; they are {shown}{more}"
        raise InvalidRequest([Problem("label", problem)])
    return digest
