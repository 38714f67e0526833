"""``GET /state`` of a gateway: which route tables it follows, and what it has counted. The operator polls it."""

from __future__ import annotations

from pydantic import ConfigDict, Field

from multitask_api.types import Record

STATE_PORT = 9090
"""Port of ``GET /state`` and ``GET /metrics``; only the operator and Prometheus may reach it."""

LATENCY_BUCKETS_S = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 30, 60)
"""Upper bounds in seconds of the latency histogram; a last bucket has no bound."""


class StateRecord(Record):
    """A record that a newer release may have extended: operator and gateways are not upgraded at the same moment."""

    model_config = ConfigDict(extra="ignore")


class TableVersion(StateRecord):
    """A TaskRoute that the gateway follows."""

    namespace: str
    name: str
    generation: int = Field(description="metadata.generation of the table in use. 0: none has been valid yet.")
    fault: str = Field("", description="Why the newest generation is not followed. Empty: it is.")


class TakenName(StateRecord):
    """A short name that a task does not get."""

    task: str = Field(description="Full name of the task: NAMESPACE/MODEL/TASK.")
    name: str = Field(description="MODEL/TASK or TASK; the full name itself if a second TaskRoute claims it.")
    owner: str = Field("", description="Full name of the task that has it. Empty: the namespace has no short names.")


class LabelCounts(StateRecord):
    """Answers whose true label was reported later."""

    right: int = 0
    wrong: int = 0


class RevisionCounts(StateRecord):
    """What one task has had from one revision since the task's ``window`` began, or since the gateway started.

    Requests that name the revision they want are not counted: they are no fair sample of the traffic.
    """

    task: str = Field(description="Full name: NAMESPACE/MODEL/TASK.")
    revision: str
    window: str = Field("", description="`RoutedTask.window` that these counts belong to.")
    requests: int = Field(
        0,
        description="Requests that the revision answered or failed. One that found a server unavailable and was "
        "answered by another server counts for the revision of that one alone.",
    )
    errors: dict[str, int] = Field(
        default_factory=dict, description="gRPC status name → requests that ended with it. Absent: none."
    )
    latencies: tuple[int, ...] = Field(
        (), description="Successful requests by duration, one count for each of `LATENCY_BUCKETS_S` and one above."
    )
    in_flight: int = Field(0, description="Requests that have not ended; they are part of `requests`.")
    running: int = Field(
        0,
        description="All requests that have not ended: also those of earlier windows, and those that name a revision.",
    )
    labels: LabelCounts | None = Field(
        None,
        description="Labels that came later, for answers given since the part of `window` before the slash changed. "
        "Absent: none came.",
    )


class GatewayState(StateRecord):
    """One gateway pod."""

    gateway: str = Field(description="Name of the pod.")
    started: float = Field(description="When the process started, in Unix seconds: counts begin at 0 then.")
    tables: tuple[TableVersion, ...] = ()
    counts: tuple[RevisionCounts, ...] = ()
    names_taken: tuple[TakenName, ...] = ()
