"""How traffic moves from one revision to the next, task by task. Pure: observations in, one decision out.

``advance`` reads what stands in the TaskRoute, what the gateways have counted and what people have ordered, and gives
the next TaskRoute. Nothing is remembered between two calls but the TaskRoute's own status.
"""

from multitask_operator.rollout.advance import advance
from multitask_operator.rollout.decision import GoldenJob, RolloutDecision, RolloutEvent
from multitask_operator.rollout.draft import WAITING_FOR_OTHERS
from multitask_operator.rollout.inputs import LiveRevision, RolloutInput
from multitask_operator.rollout.room.exchange import MAKING_ROOM
from multitask_operator.rollout.share import DOWNTIME
from multitask_operator.rollout.table import OVER, ROLLING
from multitask_operator.rollout.verification import WAITING_FOR_SERVERS

__all__ = [
    "DOWNTIME",
    "MAKING_ROOM",
    "OVER",
    "ROLLING",
    "WAITING_FOR_OTHERS",
    "WAITING_FOR_SERVERS",
    "GoldenJob",
    "LiveRevision",
    "RolloutDecision",
    "RolloutEvent",
    "RolloutInput",
    "advance",
]
