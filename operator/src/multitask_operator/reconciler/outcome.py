"""What a reconcile decided."""

from __future__ import annotations

from dataclasses import dataclass

from multitask_operator.objects.actions import Action


@dataclass(frozen=True)
class Outcome:
    """``actions`` in the order in which they are carried out; ``look_again``: seconds, None until something changes."""

    actions: tuple[Action, ...] = ()
    requeue_after: float | None = None
