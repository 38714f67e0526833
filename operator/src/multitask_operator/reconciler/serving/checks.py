"""What keeps the servers of a revision from answering: one reason, with what helps. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from multitask_api.serving_io.names import FETCH_CONTAINER, SERVER_CONTAINER
from multitask_api.types import JsonObject
from multitask_operator.objects.serving.pods import PLACE
from multitask_operator.objects.volumes import pvc_of
from multitask_operator.reconciler import pvcs
from multitask_operator.reconciler.blockers import EVENT_DELAY, Blocker, pod_warned, pods_blocked, without_remediation
from multitask_operator.reconciler.serving.claims import servers_apart
from multitask_operator.reconciler.stalls import not_scheduled
from multitask_operator.reconciler.state.accessors import created_seconds, has_ended, parse_time, true_condition
from multitask_operator.reconciler.state.model_state import ModelState
from multitask_operator.reconciler.state.pods import container_statuses
from multitask_operator.reconciler.state.revision_state import RevisionState
from multitask_operator.settings import Settings

#: Reason → what helps servers; the other reasons say it themselves.
REMEDIATION: Mapping[str, str] = {
    "QuotaExceeded": f"raise the namespace's quota, or lower {PLACE}.replicas or {PLACE}.resources",
    "PodRefused": "change what the message names; the server then starts by itself",
    "PodNotStarted": "change what the message names; the server then starts by itself",
    "PodWarning": "change what the message names; the server then starts by itself",
    "NoGPUFree": f"wait, free a GPU, or lower {PLACE}.replicas",
    "Unschedulable": f"change {PLACE}.resources or {PLACE}.podTemplate, or give the cluster such a node",
    "NotScheduled": f"correct schedulerName in {PLACE}.podTemplate (without it, Kubernetes' own schedules the pod), or"
    " start that scheduler; the server then starts by itself",
    "ImageNotPulled": "name the registry's Secret in spec.imagePullSecrets, or correct the image in the operator's"
    " installation and set another value of the annotation multitask.dev/adopt-serving-image",
    "ServerOutOfMemory": f"raise limits.memory in {PLACE}.resources",
}
_LAST_LINE_LENGTH = 400
_QUOTA = "exceeded quota"
#: What kube-scheduler says of nodes that other pods fill: resources, devices, volumes, ports, or that pods are apart.
_ROOM = re.compile(
    r"Insufficient |Too many pods|cannot allocate all claims|max volume count|have free ports|anti-affinity rules"
    r"|topology spread constraints"
)
#: Reasons that say that there is no room; their advice stands aside where the rollout says what it does about it.
NO_ROOM_REASONS = frozenset({"NoGPUFree", "Unschedulable", "QuotaExceeded"})


def start_blocked(state: ModelState, settings: Settings) -> Blocker | None:
    """A claim that keeps the servers of a new revision from starting."""
    spec = state.model.spec
    claim = pvc_of(spec.storage.uri) if spec.storage is not None else None
    unusable = None
    if claim is not None and claim in state.cluster.pvcs:
        unusable = pvcs.claim_unusable(claim, state.cluster.pvcs[claim])
    return unusable or servers_apart(state, settings)


def servers_blocked(state: ModelState, settings: Settings, revision: RevisionState) -> Blocker | None:
    """Why a server of the revision does not answer; None: nothing is known to be in the way."""
    checks: Sequence[Callable[[], Blocker | None]] = (
        lambda: _pod_refused(revision),
        lambda: pods_blocked(_late(revision.pods, state.now, settings.grace_seconds), settings.gpu_resource),
        lambda: next(_ended(revision.pods), None),
        lambda: _warned(revision.pods, state.cluster.warnings),
        lambda: not_scheduled(revision.pods, state.now),
        lambda: _overdue(revision),
    )
    return next((blocker for check in checks if (blocker := check()) is not None), None)


def no_room_since(revision: RevisionState) -> float | None:
    """Since when a server cannot be scheduled, or not be created, for want of what other servers hold; in Unix seconds.

    A pod that fits no node for another reason, such as a label or a taint, would not run either if others ended.
    """
    times = [_room_missing_since(pod) for pod in revision.pods if pod.get("status", {}).get("phase") == "Pending"]
    failure = true_condition(revision.deployment, "ReplicaFailure")
    if failure is not None and len(revision.pods) < revision.replicas and _QUOTA in failure.get("message", ""):
        times.append(_changed_at(failure))
    return min((time for time in times if time is not None), default=None)


def starting_servers(revision: RevisionState) -> int:
    """How many of its servers have a node, or may get one, and are not ready yet."""
    placed = [pod for pod in revision.pods if not has_ended(pod) and _room_missing_since(pod) is None]
    return max(0, len(placed) - revision.ready_endpoints)


def _room_missing_since(pod: JsonObject) -> float | None:
    for condition in pod.get("status", {}).get("conditions") or ():
        is_unscheduled = (condition.get("type"), condition.get("reason")) == ("PodScheduled", "Unschedulable")
        if is_unscheduled and condition.get("status") == "False" and _ROOM.search(condition.get("message", "")):
            since = _changed_at(condition)
            return since if since is not None else created_seconds(pod)
    return None


def _changed_at(condition: JsonObject) -> float | None:
    stamp = condition.get("lastTransitionTime")
    return parse_time(stamp) if stamp else None


def with_advice(blocker: Blocker) -> str:
    """The blocker's message, with what helps."""
    advice = REMEDIATION.get(blocker.reason)
    message = without_remediation(blocker.reason, blocker.message)
    return message if advice is None else f"{message.rstrip('.')}; {advice}"


def servers_needing_events(revision: RevisionState, now: float) -> Iterator[JsonObject]:
    """Pods that are pending and show no reason: only Events may tell one, for example a volume that cannot be
    mounted."""
    for pod in _late(revision.pods, now, EVENT_DELAY):
        is_pending = pod.get("status", {}).get("phase", "Pending") == "Pending"
        if is_pending and pods_blocked((pod,), gpu_resource="") is None and next(_ended((pod,)), None) is None:
            yield pod


def _pod_refused(revision: RevisionState) -> Blocker | None:
    failure = true_condition(revision.deployment, "ReplicaFailure")
    if failure is None or len(revision.pods) >= revision.replicas:
        return None
    message = failure.get("message", "")
    reason = "QuotaExceeded" if _QUOTA in message else "PodRefused"
    return Blocker(reason, f"Deployment {_name(revision.deployment)} gets no pod: {message}")


def _late(pods: Sequence[JsonObject], now: float, grace: float) -> list[JsonObject]:
    """Most pods wait a moment for a node or an image."""
    return [pod for pod in pods if now - created_seconds(pod) >= grace]


def _ended(pods: Sequence[JsonObject]) -> Iterator[Blocker]:
    for pod in pods:
        for status in container_statuses(pod):
            state, last = status.get("state", {}), status.get("lastState", {})
            ended = state.get("terminated") or last.get("terminated") or {}
            if (state.get("running") and status.get("ready")) or not ended.get("exitCode"):
                continue
            name = status.get("name")
            if ended.get("reason") == "OOMKilled":
                yield Blocker("ServerOutOfMemory", f"Pod {_name(pod)}: container {name} ran out of memory")
            elif name == FETCH_CONTAINER:
                text = f"Pod {_name(pod)} could not copy the trained result: {_why(ended)}"
                yield Blocker("FetchFailed", f"{text}; it tries again by itself")
            elif name == SERVER_CONTAINER:
                text = f"Pod {_name(pod)}: the server ended: {_why(ended)}"
                yield Blocker("ServerFailed", f"{text}; it is restarted by itself, see kubectl logs {_name(pod)} -p")


def _why(ended: JsonObject) -> str:
    lines = [line.strip() for line in (ended.get("message") or "").splitlines() if line.strip()]
    last = f": {lines[-1][-_LAST_LINE_LENGTH:]}" if lines else ""
    return f"exit code {ended.get('exitCode')}{last}"


def _warned(pods: Sequence[JsonObject], warnings: Mapping[str, str]) -> Blocker | None:
    for pod in pods:
        text = warnings.get(pod["metadata"].get("uid", ""))
        if text is not None:
            return pod_warned(pod, text)
    return None


def _overdue(revision: RevisionState) -> Blocker | None:
    for condition in (revision.deployment or {}).get("status", {}).get("conditions") or ():
        if condition.get("type") == "Progressing" and condition.get("reason") == "ProgressDeadlineExceeded":
            name = _name(revision.deployment)
            return Blocker(
                "ServersNotReady",
                f"the servers of Deployment {name} run and do not get ready; see kubectl logs deployment/{name}",
            )
    return None


def _name(item: JsonObject | None) -> str:
    return str((item or {"metadata": {"name": ""}})["metadata"]["name"])
