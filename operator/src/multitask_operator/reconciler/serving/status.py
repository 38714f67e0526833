"""Serving's part of the status: Ready, what a rollout waits for, and the servers. Output only. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from multitask_api.resource.status import ServingStatus
from multitask_api.routes import TaskRoute
from multitask_operator.formatting import counted, listed
from multitask_operator.objects.serving.names import servers_selector
from multitask_operator.reconciler.blockers import Blocker
from multitask_operator.reconciler.conditions import WARNING, ConditionValue
from multitask_operator.reconciler.contribution import StatusPart
from multitask_operator.reconciler.serving.checks import NO_ROOM_REASONS, servers_blocked, with_advice
from multitask_operator.reconciler.serving.claims import claim_warning
from multitask_operator.reconciler.serving.routes import following_gateways, read_route, unanswered_tasks
from multitask_operator.reconciler.serving.task_names import NAME_TAKEN, names_taken
from multitask_operator.reconciler.serving.verification import verification_blocked
from multitask_operator.reconciler.state.cluster_state import ClusterState
from multitask_operator.reconciler.state.model_state import ModelState
from multitask_operator.reconciler.state.revision_state import RevisionState, revision_states
from multitask_operator.rollout import DOWNTIME, MAKING_ROOM, OVER, WAITING_FOR_SERVERS, RolloutDecision
from multitask_operator.settings import Settings

_WAITS_FOR_PEOPLE = frozenset({"VerificationNotPossible", "ApprovalNeeded", "RolloutPaused"})
"""Reasons of a rollout that does not go on by itself."""
SERVING, ROLLING_OUT, TRAINED = "Serving", "RollingOut", "Trained"
ALLOWED_DOWNTIME = "AllowedDowntime"


@dataclass(frozen=True)
class ServingView:
    """What the status is made from."""

    state: ModelState
    settings: Settings
    revisions: Mapping[str, RevisionState]
    route: TaskRoute | None
    decision: RolloutDecision
    start_blocker: Blocker | None
    """Why no further server can start."""

    @cached_property
    def served(self) -> RevisionState | None:
        """The revision that answers most of the traffic; None if there is none yet."""
        weights: dict[str, int] = {}
        for task in self.route.spec.tasks if self.route is not None else ():
            for backend in task.backends:
                weights[backend.revision] = weights.get(backend.revision, 0) + backend.weight
        names = sorted((name for name in weights if weights[name]), key=lambda name: weights[name], reverse=True)
        return next((self.revisions[name] for name in names if name in self.revisions), None)

    @cached_property
    def blocker(self) -> Blocker | None:
        """The one reason why a server that should run does not."""
        live = [self.revisions[name] for name in sorted(self.decision.live) if name in self.revisions]
        # The revision that answers comes first: it is the one that callers miss.
        live.sort(key=lambda revision: self.served is None or revision.name != self.served.name)
        found = (servers_blocked(self.state, self.settings, each) for each in live if each.deployment is not None)
        stuck = self.start_blocker or next((blocker for blocker in found if blocker is not None), None)
        return stuck or verification_blocked(self.state, self.settings)

    @property
    def is_rolling(self) -> bool:
        """Whether traffic moves, or waits to be moved."""
        return self.decision.is_progressing

    @property
    def is_trained(self) -> bool:
        """Whether training has nothing left to do: what goes on is serving's then."""
        return self.state.is_resolved and self.state.plan.graph.finished


def answers(cluster: ClusterState) -> ConditionValue | None:
    """That every task of the table is answered, whatever has become of the spec since; None: one is not."""
    route = read_route(cluster.task_route)
    if route is None or not route.spec.revisions or not following_gateways(route, cluster.gateway_pods):
        return None
    if any(True for _ in unanswered_tasks(route, revision_states(cluster))):
        return None
    return ConditionValue(
        "True", SERVING, f"{counted(len(route.spec.tasks), 'task')} answered by {listed(sorted(route.spec.revisions))}."
    )


def serving_status(view: ServingView) -> StatusPart:
    """Ready once somebody answers or should; Reconciling and Progressing while traffic moves after training."""
    ready = _ready(view)
    conditions = {"Ready": ready, **warnings(view.state, view.settings)}
    fields: dict[str, object] = {"serving": _servers(view), "approval": view.decision.approval}
    if view.is_trained:
        if view.is_rolling:
            value = _progress(view)
            conditions |= {"Reconciling": value, "Progressing": value}
        fields["stage"] = _stage(view, ready)
    return StatusPart(conditions, fields)


def _progress(view: ServingView) -> ConditionValue:
    """What the rollout waits for; if that is for servers that cannot start, why: Ready says nothing of it as long as
    others answer."""
    decision, blocker = view.decision, view.blocker
    is_known = decision.reason == MAKING_ROOM and blocker is not None and blocker.reason in NO_ROOM_REASONS
    if decision.reason in (WAITING_FOR_SERVERS, MAKING_ROOM) and blocker is not None and not is_known:
        return ConditionValue("True", blocker.reason, f"{decision.message}: {with_advice(blocker)}")
    return ConditionValue("True", decision.reason, decision.message)


def warnings(state: ModelState, settings: Settings) -> dict[str, ConditionValue]:
    """What is no failure, and likely to disappoint; by the type of the condition."""
    found = {NAME_TAKEN: names_taken(state.cluster, settings), WARNING: claim_warning(state, settings)}
    return {type_: value for type_, value in found.items() if value is not None}


def _ready(view: ServingView) -> ConditionValue:
    """Whether every task that the table has is answered."""
    if view.state.model.spec.serving.replicas == 0:
        return ConditionValue(
            "False", "ScaledToZero", "spec.serving.replicas is 0: nobody answers; set it to 1 or more to serve again."
        )
    if view.route is None or view.served is None:
        # A rollout has Events of its own: that it goes on is no warning.
        is_stuck = not view.decision.is_progressing or view.decision.reason in _WAITS_FOR_PEOPLE
        return _not_ready(view, view.decision.reason if is_stuck else "ServersStarting", view.decision.message)
    missing = dict(unanswered_tasks(view.route, view.revisions))
    rollout = view.decision.rollout
    if missing and rollout is not None and rollout.gives_way == DOWNTIME and rollout.phase not in OVER:
        return _downtime(view, sorted(missing))
    if missing:
        text = f"No ready server for {listed(sorted(missing))}, of revision {listed(sorted(set(missing.values())))}."
        return _not_ready(view, "ServersStarting", text)
    pods = view.state.cluster.gateway_pods
    gateways = following_gateways(view.route, pods)
    if gateways == 0 and pods is not None and not pods:
        text = "The servers are ready, but no pod of a gateway exists: look at the gateways' Deployment."
        return _not_ready(view, "NoGatewayPods", text)
    if gateways == 0:
        return _not_ready(view, "GatewaysBehind", "The servers are ready, but no gateway follows the table yet.")
    tasks = len(view.route.spec.tasks)
    text = f"{counted(tasks, 'task')} answered by revision {view.served.name}"
    routed = {task.name for task in view.route.spec.tasks}
    unrouted = [task.name for task in view.state.model.spec.tasks if task.name not in routed]
    note = f"; not routed: {listed(unrouted)}" if unrouted else ""
    return ConditionValue("True", SERVING, f"{text}, through {counted(gateways, 'gateway')}{note}.")


def _downtime(view: ServingView, tasks: list[str]) -> ConditionValue:
    """The servers of the old revision have ended to make room, as the resource allows."""
    if view.blocker is not None and view.blocker.reason not in NO_ROOM_REASONS:
        return _not_ready(view, ALLOWED_DOWNTIME, "")
    text = f"Nobody answers {listed(tasks)}, as spec.serving.allowDowntime allows"
    return ConditionValue("False", ALLOWED_DOWNTIME, f"{text}: {view.decision.message}.")


def _not_ready(view: ServingView, reason: str, message: str) -> ConditionValue:
    if view.blocker is not None:
        return ConditionValue("False", view.blocker.reason, with_advice(view.blocker))
    if view.settings.are_known and not view.settings.gateway_address:
        text = "No gateway is installed, so that nobody can ask the servers: enable it in the chart's values."
        return ConditionValue("False", "NoGateway", text)
    return ConditionValue("False", reason, message)


def _servers(view: ServingView) -> ServingStatus:
    return ServingStatus(
        revision=view.served.name if view.served is not None else None,
        replicas=sum(_count(revision, "replicas") for revision in view.revisions.values()),
        ready_replicas=sum(_count(revision, "readyReplicas") for revision in view.revisions.values()),
        phase=view.decision.reason,
        selector=servers_selector(view.state.cluster.name),
    )


def _count(revision: RevisionState, name: str) -> int:
    return int((revision.deployment or {}).get("status", {}).get(name, 0))


def _stage(view: ServingView, ready: ConditionValue) -> str:
    if ready.status == "True":
        return ROLLING_OUT if view.is_rolling else SERVING
    return TRAINED if view.blocker is None else "Blocked"
