"""``GET /state`` of a gateway: which route tables it follows, and what it has counted. The operator polls it."""

from __future__ import annotations

from pydantic import Field

from multitask_api.types import Record

STATE_PORT = 9090
"""Port of ``GET /state`` and ``GET /metrics``; only the operator and Prometheus may reach it."""

LATENCY_BUCKETS_S = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 30, 60)
"""Upper bounds in seconds of the latency histogram; a last bucket has no bound."""


class TableVersion(Record):
    """A TaskRoute that the gateway follows."""

    namespace: str
    name: str
    generation: int = Field(description="metadata.generation of the table in use.")


class RevisionCounts(Record):
    """What one task has had from one revision since the task's ``window`` began, or since the gateway started."""

    task: str = Field(description="Full name: NAMESPACE/MODEL/TASK.")
    revision: str
    window: str = Field("", description="`RoutedTask.window` that these counts belong to.")
    requests: int = Field(0, description="Requests that were sent to the revision, failed ones included.")
    errors: dict[str, int] = Field(
        default_factory=dict, description="gRPC status name → requests that ended with it. Absent: none."
    )
    latencies: tuple[int, ...] = Field(
        (), description="Successful requests by duration, one count for each of `LATENCY_BUCKETS_S` and one above."
    )
    in_flight: int = Field(0, description="Requests that have not ended.")


class GatewayState(Record):
    """One gateway pod."""

    gateway: str = Field(description="Name of the pod.")
    started: float = Field(description="When the process started, in Unix seconds: counts begin at 0 then.")
    tables: tuple[TableVersion, ...] = ()
    counts: tuple[RevisionCounts, ...] = ()
