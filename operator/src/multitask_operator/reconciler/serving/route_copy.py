"""The copy of the TaskRoute. Its status is the only record of what was rejected, what has served and how far a rollout
is: whoever deletes the TaskRoute, or its status, must not put a rejected revision back. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator

from multitask_api.routes import RouteMetadata, TaskRoute, TaskRouteStatus
from multitask_api.serving_io.names import ROUTE_COPY_KEY
from multitask_operator.objects.serving.names import route_copy_name
from multitask_operator.objects.serving.routes import route_copy
from multitask_operator.reconciler.actions import Action, Apply
from multitask_operator.reconciler.serving.routes import status_of
from multitask_operator.reconciler.state.accessors import read_record
from multitask_operator.reconciler.state.model_state import ModelState
from multitask_operator.rollout import RolloutDecision


def read_copy(state: ModelState) -> TaskRoute | None:
    """None: there is none, or none that can be read."""
    name = route_copy_name(state.cluster.name)
    found = (item for item in state.cluster.configmaps if item["metadata"]["name"] == name)
    return read_record(next(found, None), ROUTE_COPY_KEY, TaskRoute)


def restored(route: TaskRoute | None, copy: TaskRoute | None) -> TaskRoute | None:
    """The TaskRoute as it was before somebody deleted it, or its status; else as it is."""
    if route is None or copy is None:
        return route or copy
    status = status_of(route)
    if status.rollout is not None:
        return route
    last = status_of(copy)
    kept = {"rollout": last.rollout, "rejected": last.rejected, "served": last.served}
    return route.model_copy(update={"status": status.model_copy(update=kept)})


def copy_of(name: str, decision: RolloutDecision) -> TaskRoute | None:
    """What is to be kept of the TaskRoute ``name``; None: nothing yet."""
    if decision.spec is None:
        return None
    status = TaskRouteStatus(rollout=decision.rollout, rejected=decision.rejected, served=decision.served)
    return TaskRoute(metadata=RouteMetadata(name=name), spec=decision.spec, status=status)


def written_copy(state: ModelState, copy: TaskRoute | None, decision: RolloutDecision) -> Iterator[Action]:
    """The copy, if it differs. It comes after the TaskRoute itself, whose resource version tells whether the decision
    is out of date; as long as there is none the copy is all that is known."""
    wanted = copy_of(state.cluster.name, decision)
    if state.cluster.task_route is None or wanted is None or wanted == copy:
        return
    item = route_copy(state.owner, wanted)
    if item is not None:
        yield Apply(item)
