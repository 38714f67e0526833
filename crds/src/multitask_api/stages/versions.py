"""The version of each kind of stage. Raise it by hand when a change makes the results of the stage differ.

A version is part of a digest, so a result of another version is not found again. A run therefore records the versions
that it began with and goes on with them: an upgrade makes nothing stale. The numbers alone are not enough for that:
where a release changes what a stage reads, or the identity of its parameters, `multitask_api.stages.graph` goes by the
version too (`UNRECORDED_VERSIONS`), and still builds the graph of an older one.
"""

from __future__ import annotations

from collections.abc import Mapping

Versions = Mapping[str, int]
"""Kind of stage → version."""

VERSIONS: Versions = {
    "prepare": 3,
    "base": 3,
    "baseline": 4,
    "filter": 2,
    "high-resource": 4,
    "mixture": 4,
    "bundle": 2,
    "evaluate": 4,
    "export": 2,
    "verify": 2,
    "ledger": 3,
    "gradients": 2,
    "affinity": 1,
    "check": 1,
}

UNRECORDED_VERSIONS: Versions = {
    "prepare": 2,
    "base": 2,
    "baseline": 3,
    "filter": 1,
    "high-resource": 3,
    "mixture": 3,
    "bundle": 1,
    "evaluate": 3,
    "export": 1,
    "verify": 1,
    "ledger": 2,
}
"""The versions of runs that recorded none: of the last release before they did. It never changes."""


def with_newer_kinds(recorded: Versions) -> dict[str, int]:
    """``recorded``, with this release's versions of the kinds of stages that the release which recorded it lacked."""
    return {**VERSIONS, **recorded}
