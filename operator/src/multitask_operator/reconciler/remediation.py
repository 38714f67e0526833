"""What helps against a reason that stands in Ready, where its message does not say so itself. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from multitask_operator.formatting import cut
from multitask_operator.planner.status import MESSAGE_BYTES

REMEDIATION: Mapping[str, str] = {
    "QuotaExceeded": "raise the namespace's quota, lower training.resources or training.maxParallelJobs, or wait until"
    " other work has ended; the Job goes on by itself",
    "PodRefused": "change what it names; the Job goes on by itself",
    "PodWarning": "change what it names; the pod goes on by itself",
    "PodNotStarted": "change what it names; the pod goes on by itself",
    "NotDeleted": "whoever set this finalizer has to remove it; then the Job is made anew",
    "NoGPUFree": "wait, free a GPU, or lower training.gpusPerNode (0: the CPU) or training.maxParallelJobs",
    "Unschedulable": "change training.resources or the podTemplate, or give the cluster such a node",
    "Queued": "wait, or ask whoever owns the queue; without training.queueName the Jobs start at once",
    "Gated": "wait, or ask whoever holds the gate",
    "ImageNotPulled": "correct the image's name, or name its registry's Secret in spec.imagePullSecrets",
    "DataNotFound": "correct the addresses, or put the data there: it is looked for again every 5 minutes",
}


def with_remediation_for(reason: str, message: str) -> str:
    """``message`` and what helps; of a message that is too long for a condition the end goes, not the advice."""
    advice = REMEDIATION.get(reason)
    return message if advice is None else append_remediation(message.rstrip("."), f"; {advice}")


def append_remediation(message: str, advice: str) -> str:
    """``message`` and ``advice`` in the bytes that a condition has for both."""
    return cut(message, MESSAGE_BYTES - len(advice.encode())) + advice


def without_remediation(reason: str, message: str) -> str:
    """What `advised` was given."""
    return message.removesuffix(f"; {REMEDIATION[reason]}") if reason in REMEDIATION else message
