"""What people have ordered by annotations: ``mtm rollout`` and ``mtm rollback`` write them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from multitask_api.serving_io.names import RETRY_ANNOTATION, ROLLBACK_ANNOTATION, ROLLOUT_ANNOTATION

PAUSE, RESUME, PROMOTE, ABORT = "pause", "resume", "promote", "abort"
ACTIONS = (PAUSE, RESUME, PROMOTE, ABORT)


class Order(NamedTuple):
    """An order for the rollout of one revision. ``text``: the annotation, which makes it one of its own."""

    action: str
    revision: str
    text: str


def rollout_order(annotations: Mapping[str, str]) -> Order | None:
    """The order in the rollout annotation; None if there is none that can be read."""
    text = annotations.get(ROLLOUT_ANNOTATION, "")[:256]
    return parse_order(text)


def parse_order(text: str) -> Order | None:
    """``ACTION REVISION TIME``."""
    words = text.split()
    return Order(words[0], words[1], text) if len(words) >= 2 and words[0] in ACTIONS else None


def rollback_to(annotations: Mapping[str, str]) -> str | None:
    """The revision that the rollback annotation names."""
    words = annotations.get(ROLLBACK_ANNOTATION, "").split()
    return words[0] if words else None


def retry_of(annotations: Mapping[str, str]) -> tuple[str, str] | None:
    """The revision that may be tried again, and the whole text: ``REVISION TIME``."""
    text = annotations.get(RETRY_ANNOTATION, "")[:256]
    words = text.split()
    return (words[0], text) if words else None
