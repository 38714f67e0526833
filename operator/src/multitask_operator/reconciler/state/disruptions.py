"""Pods that were ended from outside: evicted, preempted, drained, of a lost node. Pure.

The API server removes such a pod as soon as it has ended, and a Job does not count it. So the ConfigMap of its Job
remembers it from the moment at which its condition ``DisruptionTarget`` is seen.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from multitask_api.types import JsonObject
from multitask_operator.formatting import cut
from multitask_operator.reconciler.state.accessors import created_at, true_condition

#: Uids that are remembered: of many more pods than are seen at once, so that none is counted twice.
MAX_UIDS = 64
#: Bytes of the reason that are remembered.
MAX_REASON_BYTES = 256


@dataclass(frozen=True)
class Disruptions:
    """How many pods of a Job were ended from outside."""

    count: int = 0
    uids: tuple[str, ...] = ()
    """Of the last ones, the newest last."""
    last: str = ""
    """Why the last one was ended."""

    @classmethod
    def read(cls, text: str | None) -> Disruptions:
        """What the ConfigMap of a Job remembers; nothing if that was edited by hand."""
        try:
            document = json.loads(text or "{}")
            uids = tuple(str(uid) for uid in document.get("uids", ()))
            return cls(max(int(document.get("count", 0)), len(uids)), uids, str(document.get("last", "")))
        except (AttributeError, TypeError, ValueError):
            return cls()

    def to_text(self) -> str:
        """What the ConfigMap of a Job remembers."""
        return json.dumps({"count": self.count, "uids": self.uids, "last": self.last}, ensure_ascii=False)

    def with_pods(self, pods: Sequence[JsonObject]) -> Disruptions:
        """With those of ``pods`` that were ended from outside and are not known yet."""
        ended = [pod for pod in pods if true_condition(pod, "DisruptionTarget") is not None]
        new = sorted((pod for pod in ended if pod["metadata"]["uid"] not in self.uids), key=created_at)
        if not new:
            return self
        uids = (*self.uids, *(pod["metadata"]["uid"] for pod in new))
        return Disruptions(self.count + len(new), uids[-MAX_UIDS:], cut(_reason(new[-1]), MAX_REASON_BYTES))


def _reason(pod: JsonObject) -> str:
    condition = true_condition(pod, "DisruptionTarget") or {}
    why = pod.get("status", {}).get("message") or condition.get("message") or condition.get("reason") or "evicted"
    return str(why)
