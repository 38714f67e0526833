"""The version of each kind of stage. Raise it by hand when a change makes the results of the stage differ."""

from __future__ import annotations

VERSIONS = {
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
