"""How many models of an installation roll out at the same time. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from multitask_api.routes import TaskRoute
from multitask_operator.formatting import listed
from multitask_operator.reconciler.serving.newest import NewestRevision
from multitask_operator.reconciler.serving.routes import status_of
from multitask_operator.reconciler.state.model_state import ModelState
from multitask_operator.rollout import OVER
from multitask_operator.settings import Settings

#: Seconds until the next look at the others.
RECHECK_SECONDS = 30.0


@dataclass(frozen=True)
class Waiting:
    """A rollout that does not begin yet."""

    served: str
    """The revision that goes on answering."""
    shown: dict[str, Any]
    """Fields of the decision that say so."""


def waits_for_others(
    state: ModelState, settings: Settings, newest: NewestRevision, route: TaskRoute | None
) -> Waiting | None:
    """None: the newest revision may be rolled out, or is not new.

    A first revision does not wait: nobody answers without it. One that is on its way goes on.
    """
    others, rollout = state.cluster.rolling_models, status_of(route).rollout
    routed = route.spec.revisions if route is not None else frozenset()
    is_new = newest.name is not None and newest.name not in routed
    if not is_new or rollout is None or rollout.phase not in OVER:
        return None
    if len(others) < settings.max_concurrent_rollouts or rollout.revision == newest.name or not routed:
        return None
    served = rollout.revision if rollout.revision in routed else sorted(routed)[0]
    text = f"revision {newest.name} waits for the rollouts of {listed(sorted(others))}"
    shown = {
        "reason": "WaitingForOtherModels",
        "message": f"{text}: the installation has {settings.max_concurrent_rollouts} at a time",
        "is_progressing": True,
        "requeue_after": RECHECK_SECONDS,
    }
    return Waiting(served, shown)
