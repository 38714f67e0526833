"""``study.json``: the outcome of a study, for other programs: fields may be added, never renamed."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from multitask_api.stage_io.results import Verdict
from multitask_api.types import Record


class TaskOutcome(Record):
    """One task of one run. ``baseline``: the mean score of the arm's own baselines, as the verdict is by it."""

    score: float
    baseline: float | None = None
    ratio: float | None = Field(
        None, description="score / the baseline of the reference arm, so that all arms have the same denominator."
    )
    verdict: Verdict
    rows: int = Field(description="Training rows of the task in stages 2 and 3.")


class StudyRun(Record):
    """One arm with one seed. What it cost is of stages 2 and 3 and of the evaluation, without what arms share."""

    seed: int
    state: Literal["Finished", "Failed", "Unfinished"] = Field(
        "Finished", description="Failed: a stage of it failed. Unfinished: it was stopped, or has not begun."
    )
    failure: str | None = Field(None, description="Why it has no result. Absent: it has finished.")
    tasks: dict[str, TaskOutcome] = Field(default_factory=dict)
    qualified: int = 0
    inconclusive: int = Field(0, description="Tasks whose verdict is open. They count in meanRatio as all others do.")
    rows: int = Field(0, description="Training rows of stages 2 and 3; a baseline that answers a group counts too.")
    tokens: int = 0
    seconds: float = Field(0.0, description="Of processes, as the manifests have them.")
    validations: tuple[int, ...] = Field((), description="Of each mixture: the checkpoints that one is chosen from.")
    mean_ratio: float | None = Field(None, description="Over the tasks in judged: in all runs the same ones.")

    @property
    def finished(self) -> bool:
        """Whether it has a result."""
        return self.state == "Finished"


class StudyDifference(Record):
    """An arm against the reference, seed by seed, in the mean ratio over judged tasks."""

    value: float
    interval: tuple[float, float] | None = Field(
        None, description="All intervals of the study together hold with 95 %. Absent: the seeds do not tell."
    )
    seeds: tuple[int, ...]


class StudyStages(Record):
    """Results that an arm is made of: how many there are, and how many of them other arms have too."""

    total: int
    shared: int


class StudyArmReport(Record):
    """One arm."""

    name: str
    changes: dict[str, Any]
    runs: tuple[StudyRun, ...]
    mean: float | None = Field(None, description="Mean over seeds of meanRatio.")
    deviation: float | None = Field(None, description="Standard deviation over seeds (n − 1).")
    difference: StudyDifference | None = Field(None, description="Absent for the reference, and without a common seed.")
    stages: StudyStages
    own_baselines: bool = Field(False, description="Its baselines are not those of the reference arm.")
    same_training: str | None = Field(
        None, description="An arm before it that comes to the same training: this one is not compared by itself."
    )
    own_base: bool = Field(False, description="Its base model is pre-trained otherwise than that of the reference arm.")


class StudyCost(Record):
    """Stages of all arms. A result that several arms use is one."""

    uses: int = Field(description="Stages of all runs, each run counted by itself.")
    results: int = Field(description="Different results among them.")
    ran: int = Field(description="Results that this call of the command made.")
    seconds: float = Field(description="Of processes, of all results.")
    shared_seconds: float = Field(description="Of processes, of the results that come before stage 2.")


class StudyReport(Record):
    """The whole study."""

    schema_: Literal["multitask.dev/study/v1"] = Field("multitask.dev/study/v1", alias="schema")
    name: str
    model: str
    written: str | None = None
    base_model: str | None = None
    total_steps: int | None = None
    batch_rows: int
    seeds: tuple[int, ...]
    tasks: tuple[str, ...]
    judged: tuple[str, ...] = Field(
        description="Tasks that count in meanRatio: those whose baseline in the reference arm is one to judge by."
    )
    arms: tuple[StudyArmReport, ...] = Field(description="The first is the reference.")
    conclusion: str
    warnings: tuple[str, ...] = ()
    cost: StudyCost
