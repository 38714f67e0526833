"""Which settings let one process train several runs on one base: the operator groups Jobs by it, the trainer trains."""

from __future__ import annotations

from collections.abc import Sequence

from multitask_api.resource.training import Sharding, Tracker
from multitask_api.resource.tuning import Tuning


def why_apart(tuning: Tuning, sharding: Sharding | None, report_to: Sequence[Tracker] | None) -> str | None:
    """Why runs with these settings do not train in one process; None if nothing in them keeps them apart.

    What only the trainer knows may keep them apart all the same, dropout of the base for example.
    """
    if not tuning.can_share_base:
        return "only LoRA without dropout trains several adapters on one base"
    if sharding == "Always":
        return "training.sharding: Always needs several processes, which a run by itself says"
    if report_to:
        return "a tracker of experiments takes one run a process"
    return None
