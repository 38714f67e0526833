"""What the stage ``ledger`` finds: the cost of one server for all tasks, against one a task."""

from __future__ import annotations

from pydantic import Field

from multitask_api.types import Record


class LedgerSide(Record):
    """One side of the ledger."""

    models: int
    bytes: int = Field(description="Weights and adapters, in bytes.")
    requests_per_second: float = Field(
        description="Of the multi-task server for the mix of all tasks. Of single-task servers the sum over N machines."
    )
    training_seconds: float = Field(
        description="Single-task: the base and one run a task (the mean over its seeds). Multi-task: the base, every "
        "single-task run (all seeds, they are the yardstick), stages 2 and 3."
    )
    stage_seconds: dict[str, float] = Field(
        default_factory=dict, description="Stage kind → its part of the training seconds."
    )
    replicas: int
    tasks: dict[str, float] = Field(default_factory=dict, description="Task → requests per second, measured.")


class Reduction(Record):
    """1 − multi/single."""

    bytes: float
    replicas: float


class LedgerResult(Record):
    """The cost of one multi-task server compared with N single-task servers."""

    single_task: LedgerSide
    multi_task: LedgerSide
    reduction: Reduction
    load_per_task: float
    runtime_bytes: int = Field(description="Resident bytes of the runtime without weights, paid by every server.")
    leftover_models: int = 0

    @property
    def single_task_rate(self) -> float | None:
        """Requests/s of the single-task models on the machine of the one server, for its load: all tasks alike.

        N / Σ_i 1/c_i: a request of each task takes 1/c_i seconds there. None where no server was measured.
        """
        rates = list(self.single_task.tasks.values())
        return len(rates) / sum(1 / rate for rate in rates) if rates and all(rate > 0 for rate in rates) else None
