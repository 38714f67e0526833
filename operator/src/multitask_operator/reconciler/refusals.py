"""Writes that the API server rejects: who refuses them, and what helps. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from multitask_operator.reconciler.blockers import Blocker, append_advice
from multitask_operator.reconciler.state.cluster_state import RejectedWrite

REASON = "WriteRefused"
_AGAIN = "the operator tries again by itself"
_NOT_FOUND, _CONFLICT, _TOO_LARGE, _FORBIDDEN = 404, 409, 413, 403
_POLICY = "meet that policy with podTemplate in spec.training or spec.serving, or ask whoever set it for an exception"
#: What the server's message says → what helps; the first that fits. A webhook may say anything, so it comes first.
_CAUSES: Sequence[tuple[str, str]] = (
    (r"failed calling webhook", "whoever runs that webhook has to make it answer, or set its failurePolicy to Ignore"),
    (r"admission webhook .* denied|ValidatingAdmissionPolicy", _POLICY),
    (r"exceeded quota", "raise the quota, or wait until other work has ended"),
    (r"violates PodSecurity", "change what it names in podTemplate, or the namespace's level of pod security"),
    (
        r"(?:maximum|minimum) \S+ usage|max limit to request ratio|must specify",
        "change resources in spec.training or spec.serving, or the LimitRange or quota of the namespace",
    ),
    (r"is being terminated", "the namespace is being deleted: apply the resource in another one"),
)
_IMMUTABLE = re.compile(r"immutable|cannot change roleRef|may not be changed")


def write_rejected(rejected: RejectedWrite) -> Blocker:
    """The API server rejected a write; the message is cut before its advice is."""
    text = f"{rejected.verb} {rejected.kind} {rejected.name}: {rejected.message.rstrip('.')}"
    return Blocker(REASON, append_advice(text, f"; {_advice(rejected)}: {_AGAIN}"))


def next_step(message: str) -> str | None:
    """The advice in the message of a `write_rejected`; None if it has none."""
    advice = message.rpartition("; ")[2]
    return advice if advice.endswith(_AGAIN) else None


def _advice(rejected: RejectedWrite) -> str:
    known = next((advice for pattern, advice in _CAUSES if re.search(pattern, rejected.message)), None)
    if known is not None:
        return known
    if rejected.code == _CONFLICT:
        return "delete or rename it"
    if _IMMUTABLE.search(rejected.message):
        return f"delete {rejected.kind} {rejected.name}, which is then made again"
    if rejected.code == _FORBIDDEN and " cannot " in rejected.message:
        return "give the operator's role this permission, as the chart of its release does"
    if rejected.code == _NOT_FOUND:
        return f"install what brings the kind {rejected.kind}, or switch off what needs it in the chart's values"
    if rejected.code == _TOO_LARGE:
        return "shorten texts and labels, or put tasks into a second MultiTaskModel"
    return "change what the message names"
