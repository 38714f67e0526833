"""Which Event about an object tells why it shows nothing."""

from __future__ import annotations

import pytest

from multitask_operator.cluster.observe import newest_warning

BEGAN, LATER, LAST = "2026-01-01T10:00:00Z", "2026-01-01T10:00:07Z", "2026-01-01T10:02:00Z"


def event(kind, text, when, **more):
    return {"type": kind, "reason": "R", "message": text, "lastTimestamp": when, "metadata": {"name": text}, **more}


def by_scheduler(kind, text, when, **more):
    return event(kind, text, None, eventTime=when.replace("Z", ".250000Z"), **more)


NEWEST = {
    "there is none": ([], None),
    "a volume cannot be mounted": ([event("Normal", "Scheduled", BEGAN), event("Warning", "mount", LATER)], "mount"),
    "the newest of several counts": ([event("Warning", "b", LATER), event("Warning", "a", BEGAN)], "b"),
    "it had no node, and pulls its image now": (
        [by_scheduler("Warning", "0/1 nodes", BEGAN), event("Normal", "Pulling", LATER)],
        None,
    ),
    "it has its node since the same second": (
        [by_scheduler("Warning", "0/1 nodes", LATER), event("Normal", "Pulling", LATER)],
        None,
    ),
    "an Event that came again is as new as its last time": (
        [
            by_scheduler("Warning", "again", BEGAN, series={"count": 9, "lastObservedTime": LAST}),
            event("Normal", "once", LATER),
        ],
        "again",
    ),
    "of one second the Warning counts": ([event("Warning", "w", LATER), event("Normal", "n", LATER)], "w"),
    "one that says only when it was made": (
        [{"type": "Warning", "reason": "FailedMount", "metadata": {"name": "x", "creationTimestamp": BEGAN}}],
        "FailedMount",
    ),
}


@pytest.mark.parametrize("sentence", NEWEST)
def test_a_warning_is_told_unless_something_followed_it(sentence):
    events, expected = NEWEST[sentence]
    assert newest_warning(events) == expected
    assert newest_warning(events[::-1]) == expected
