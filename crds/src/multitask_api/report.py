"""``report.json``: the outcome of a run, for other programs: fields may be added, never renamed."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from multitask_api.serving_io.verify import TaskFlips
from multitask_api.stage_io.affinity import AffinityResult, CheckResult
from multitask_api.stage_io.ledger import LedgerResult
from multitask_api.stage_io.results import Agreement, CurvePoint, SplitRows, Verdict
from multitask_api.types import Record


class ReportStage(Record):
    """One stage of the run."""

    name: str
    digest: str | None = None
    state: Literal["ran", "cached", "skipped", "missing"] | None = Field(
        None, description="`missing`: its result is not there yet. Absent in reports of releases before this field."
    )
    cached: bool | None = Field(None, description="Absent for a stage that was skipped or has no result yet.")
    seconds: float
    skipped: str | None = Field(None, description="Why the stage had nothing to do.")
    tokens: int | None = None
    steps: int | None = Field(None, description="Optimizer steps of a stage that trains.")
    ended_by: Literal["limit", "patience", "settled"] | None = Field(
        None, description="Why its training ended. settled: every task had reached its baseline, nothing rose any more."
    )
    saved_rows: int | None = Field(
        None, description="Rows of its limit that were not trained, because it ended before."
    )
    curve: tuple[CurvePoint, ...] = ()


class ReportStart(Record):
    """How a mixture with ``stages.mixture.start: Previous`` began, and what that saved."""

    reason: str
    digest: str | None = Field(None, description="The earlier mixture that it began with. Absent: it started cold.")
    rows_before: int | None = Field(None, description="Rows of that mixture and those that it had begun with.")
    rows_to_bar: dict[str, int] = Field(
        default_factory=dict,
        description="Task → rows of the group, all tasks together, until the task's validation score first was the "
        "threshold times its baseline's. Without the tasks that never came so far.",
    )
    cold_rows_to_bar: dict[str, int] | None = Field(
        None, description="The same of the mixture that started cold, its stage 2 included. Absent: there is none."
    )


class ReportGroup(Record):
    """One group after filtering."""

    name: str
    tasks: tuple[str, ...]
    high_resource: tuple[str, ...]
    probabilities: dict[str, float]
    reason: str = ""
    need_rows: dict[str, int] = Field(default_factory=dict)
    stage2_rows: dict[str, int] = Field(default_factory=dict)
    stage3_rows: dict[str, int] = Field(default_factory=dict)
    stage2_tokens: dict[str, int] = Field(default_factory=dict)
    stage3_tokens: dict[str, int] = Field(default_factory=dict)
    saved_rows: int = Field(0, description="Rows of the limits of stages 2 and 3 that were not trained.")
    start: ReportStart | None = Field(None, description="Absent without stages.mixture.start.")
    tuning: str | None = Field(
        None, description="The tuning method in words: ranks, experts, layers. Absent in reports of releases before it."
    )
    trained_weights: int | None = Field(None, description="Weights that its mixture trained. Absent until it has.")
    warnings: tuple[str, ...] = ()


class ReportTask(Record):
    """One task: its data, scores and verdict, and which model answers it."""

    name: str
    group: str
    type: str
    metric: str
    rows: SplitRows
    baseline: float | None = None
    score: float | None = None
    ratio: float | None = None
    interval: tuple[float, float] | None = None
    interval_from: Literal["rows", "rows and seeds"] | None = Field(
        None, description="`rows`: one seed a baseline, so the variation between training runs is not in the interval."
    )
    floor: float | None = None
    verdict: Verdict | None = None
    confirmed: bool = False
    reason: str = ""
    cause: str = Field("", description="Why this model answers, as one CamelCase word.")
    saturation_steps: int | None = None
    served_by: str | None = None
    overlap_rows: int = 0
    ratio_without_overlap: float | None = None
    interval_without_overlap: tuple[float, float] | None = None
    judged_without_overlap: bool = False

    @property
    def judged_ratio(self) -> float | None:
        """The ratio that the verdict is by."""
        return self.ratio_without_overlap if self.judged_without_overlap else self.ratio

    @property
    def judged_interval(self) -> tuple[float, float] | None:
        """The interval of `judged_ratio`."""
        return self.interval_without_overlap if self.judged_without_overlap else self.interval


class ReportDiagnosis(Record):
    """Why a task may be below the threshold, by the gradients of the tasks of its group."""

    task: str
    hurting: dict[str, tuple[float, float]] = Field(
        description="Task of its group that hurts it → affinity and the half-width of its interval; the worst first."
    )
    check: CheckResult | None = Field(None, description="Two short runs, with these tasks and without them.")
    advice: str


class ReportMachine(Record):
    """Where something was measured, by the manifest of its stage."""

    host: str
    cpus: int | None = None
    threads: int | None = None
    device: str


class ReportChanges(Record):
    """Which answers a new revision changes, as they were compared before it had traffic."""

    revision: str
    previous: str = Field(description="The revision that was served then.")
    tasks: dict[str, TaskFlips] = Field(description="Task → how its answers change.")
    not_compared: dict[str, str] = Field(default_factory=dict, description="Task → why it was not compared.")


class Report(Record):
    """The whole run."""

    schema_: Literal["multitask.dev/report/v1"] = Field("multitask.dev/report/v1", alias="schema")
    model: str
    written: str | None = Field(None, description="When this report was written, in UTC.")
    base_model: str | None = Field(None, description="Address of the base model, with the commit if it has one.")
    base_parameters: int | None = None
    data: tuple[str, ...] = Field((), description="The folders of the tasks' data.")
    machines: tuple[ReportMachine, ...] = Field((), description="Where the test scores were measured.")
    revision: str | None = None
    threshold: float = Field(0.99, description="qualification.threshold.")
    qualified: int
    confirmed: int = Field(description="Qualified tasks whose whole interval is above the threshold.")
    total: int
    stages: tuple[ReportStage, ...]
    groups: tuple[ReportGroup, ...]
    tasks: tuple[ReportTask, ...]
    serving: Agreement | None = None
    ledger: LedgerResult | None = None
    affinity: AffinityResult | None = Field(None, description="With filtering.strategy Affinity.")
    diagnoses: tuple[ReportDiagnosis, ...] | None = Field(
        None, description="With filtering.strategy Affinity: of every task below the threshold."
    )
    changes: ReportChanges | None = Field(
        None, description="The newest revision against the one before it. Absent: there is nothing to compare."
    )
    warnings: tuple[str, ...] = ()
