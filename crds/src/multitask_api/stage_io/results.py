"""The results of the stages: the ``result`` of each manifest, typed.

Scores are fractions in [0, 1] (MatthewsCorrelation in [-1, 1]); losses are nats per target token; a number that could
not be determined is None, and a field next to it has the reason.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from multitask_api.bundle import ForwardPath, PromptFormat
from multitask_api.types import Record

Verdict = Literal["Qualified", "NotQualified", "Inconclusive", "NoBaseline"]
SPLITS = ("train", "validation", "test")


class SplitRows(Record):
    """Row counts of the three splits."""

    train: int
    validation: int
    test: int


class PrepareResult(Record):
    """The row counts and problems of one task's data."""

    rows: SplitRows
    bad_rows: int = 0
    label_counts: dict[str, dict[str, int]] = Field(default_factory=dict, description="Split → label → rows.")
    test_rows_in_train: int = Field(
        0, description="Test rows whose normalised input is also in this task's train split."
    )
    characters: dict[str, int] = Field(default_factory=dict, description="Split → characters in all fields.")
    warnings: tuple[str, ...] = ()


class BaseResult(Record):
    """The base model: its size, and its pretraining if there was any."""

    parameters: int = Field(description="Number of weights.")
    vocabulary: int
    tasks: tuple[str, ...] = Field(description="The tasks whose text it was trained on.")
    steps: int = 0
    tokens: int = 0
    first_loss: float | None = None
    last_loss: float | None = None
    tokens_per_second: float | None = None
    warnings: tuple[str, ...] = ()
    forward_path: ForwardPath | None = Field(None, description="How the model is run; absent: never tested.")
    forward_path_reason: str = ""
    prompt_format: PromptFormat | None = Field(None, description="How prompts are encoded; absent: by the defaults.")

    @property
    def training_seconds(self) -> float:
        """Seconds of pre-training."""
        return self.tokens / self.tokens_per_second if self.tokens_per_second else 0.0


class TaskPoint(Record):
    """One task at one validation."""

    loss: float = Field(description="Mean over rows of the mean over target tokens, in nats.")
    score: float


class CurvePoint(Record):
    """One validation during training."""

    step: int
    train_loss: float | None = None
    phase: Literal["warmup", "constant", "decay"]
    tasks: dict[str, TaskPoint]


class TrainResult(Record):
    """One training run: a baseline, stage 2 or stage 3."""

    steps: int
    chosen_step: int
    saturation_step: int = Field(description="Step of the lowest validation loss (mean over tasks) before the decay.")
    still_improving: bool = Field(description="The limit ended training, and score and loss were best at the end.")
    curve: tuple[CurvePoint, ...]
    validation: dict[str, TaskPoint] = Field(description="At the chosen checkpoint.")
    rows_given: dict[str, int] = Field(description="Task → number of training rows drawn.")
    tokens_given: dict[str, int] = Field(description="Task → input tokens of these rows; they sum to ``tokens``.")
    tokens: int = Field(description="Tokens that went through the model in training.")
    truncated_rows: dict[str, int] = Field(default_factory=dict)
    trainable_parameters: int = 0
    training_seconds: float = 0.0
    tokens_per_second: float | None = None
    test_score: float | None = Field(
        None, description="Baselines only: test score of the final weights in the serving engine."
    )


class GroupPlan(Record):
    """One group after filtering."""

    name: str
    tasks: tuple[str, ...]
    high_resource: tuple[str, ...] = ()
    high_resource_probabilities: dict[str, float] = Field(default_factory=dict)
    high_resource_steps: int | None = Field(
        None, description="The most steps of stage 2; None: ``stages.highResource.maxSteps``."
    )
    reason: str = Field(description="Why stage 2 runs on these tasks, or is skipped.")
    probabilities: dict[str, float]
    mixture_steps: int
    need_rows: dict[str, int] = Field(
        default_factory=dict, description="Rows that a task's single-task run had been given when it saturated."
    )
    expected_rows: dict[str, int] = Field(default_factory=dict, description="Rows of stages 2 and 3 together.")
    expected_stage2_rows: dict[str, int] = Field(default_factory=dict, description="Task → rows, if nothing stops it.")
    expected_stage3_rows: dict[str, int] = Field(default_factory=dict, description="Task → rows, if nothing stops it.")
    warnings: tuple[str, ...] = ()


class FilterResult(Record):
    """The plan of every group."""

    groups: tuple[GroupPlan, ...]

    def group(self, name: str) -> GroupPlan:
        """The group called ``name``; KeyError if there is none."""
        for group in self.groups:
            if group.name == name:
                return group
        raise KeyError(name)


class BundleResult(Record):
    """The sizes of the models of the bundle."""

    models: dict[str, int] = Field(description="Model → bytes of its weights and adapters.")


class TaskVerdict(Record):
    """The scores and the verdict of one task."""

    task: str
    score: float
    baseline: float | None = None
    baseline_scores: tuple[float, ...] = ()
    ratio: float | None = None
    interval: tuple[float, float] | None = None
    floor: float | None = Field(None, description="Score of the majority label, or of the best constant answer.")
    verdict: Verdict
    confirmed: bool = False
    reason: str = ""
    test_rows: int
    overlap_rows: int = Field(0, description="Test rows whose input is also in the train split of any task.")
    ratio_without_overlap: float | None = None


class EvaluateResult(Record):
    """The verdicts of one group."""

    tasks: tuple[TaskVerdict, ...]
    truncated_rows: dict[str, int] = Field(default_factory=dict, description="Task → test rows that were cut to fit.")
    seed_variance: float | None = Field(None, description="Variance of the log score between seeds, pooled over tasks.")
    degrees_of_freedom: int = 0


class ServedBy(Record):
    """Which model answers one task, and why."""

    task: str
    served_by: str | None = Field(None, description="The group, `baseline`, or absent when the task is not routed.")
    model: str | None = None
    adapter: str | None = None
    reason: str


class ExportResult(Record):
    """The exported revision: its routes and the sizes of its models."""

    revision: str
    tasks: tuple[ServedBy, ...]
    models: dict[str, int] = Field(description="Model → bytes of its weights and adapters.")
    promoted: bool = True
    warnings: tuple[str, ...] = Field((), description="For example, why the only adapter was not merged.")


class Agreement(Record):
    """How many served answers equal those of the evaluation."""

    compared: int
    equal: int
    near_ties: int
    different: int


class VerifyResult(Agreement):
    """The agreement over all routed tasks."""

    tasks: dict[str, Agreement]
    examples: tuple[dict[str, str], ...] = Field((), description="Up to ten answers that differ.")


class LedgerSide(Record):
    """One side of the ledger."""

    models: int
    bytes: int = Field(description="Weights and adapters, in bytes.")
    requests_per_second: float
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
