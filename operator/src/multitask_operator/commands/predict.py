"""``mtm predict``: one request to a gateway."""

from __future__ import annotations

from collections.abc import Sequence

from multitask_operator.local.processes import exec_module


def predict(arguments: Sequence[str]) -> int:
    """Replace this process by the client of the gateway."""
    return exec_module("multitask_trainer.predict", "mtm predict", arguments)
