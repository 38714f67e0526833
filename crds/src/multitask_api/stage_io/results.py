"""The results of the stages: the ``result`` of each manifest, typed.

Scores are fractions in [0, 1] (MatthewsCorrelation in [-1, 1]); losses are nats per target token; a number that could
not be determined is None, and a field next to it has the reason.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from multitask_api.bundle import ForwardPath, PromptFormat
from multitask_api.estimates.shape import ModelShape
from multitask_api.stage_io.mixture_start import MixtureStart
from multitask_api.stage_io.overlap import LEAKED_TEST_ROWS
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
    shape: ModelShape | None = Field(None, description="For estimates; absent: of a family that is not estimated.")

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


class GpuMemory(Record):
    """How a training run used the memory of its GPU; with several, the first one's."""

    micro_batch_tokens: int = Field(description="Tokens of a micro-batch at the most, padding included.")
    gradient_checkpointing: bool = Field(description="Activations were computed twice, for lack of memory.")
    peak_bytes: int = Field(description="Allocated at the most, by the training steps and validations.")


class PackedAttention(Record):
    """How a training run kept rows apart that shared a sequence."""

    kind: Literal["Varlen", "Mask"] = Field(
        description="Varlen: attention was given the rows' lengths, and cost the squares of these. "
        "Mask: it was given a mask, and cost the square of a sequence."
    )
    reason: str


class TrainResult(Record):
    """One training run: a baseline, stage 2 or stage 3."""

    steps: int
    chosen_step: int
    saturation_step: int = Field(description="Step of the lowest validation loss (mean over tasks) before the decay.")
    still_improving: bool = Field(description="The limit ended training, and score and loss were best at the end.")
    ended_by: Literal["limit", "patience", "settled"] | None = Field(
        None,
        description="Why the decay began. settled: every task had reached its baseline, and nothing rose any more.",
    )
    curve: tuple[CurvePoint, ...]
    validation: dict[str, TaskPoint] = Field(description="At the chosen checkpoint.")
    rows_given: dict[str, int] = Field(description="Task → number of training rows drawn.")
    tokens_given: dict[str, int] = Field(description="Task → input tokens of these rows; they sum to ``tokens``.")
    tokens: int = Field(description="Tokens that went through the model in training.")
    truncated_rows: dict[str, int] = Field(default_factory=dict)
    trainable_parameters: int = 0
    training_seconds: float = 0.0
    tokens_per_second: float | None = None
    test_score: float | None = Field(None, description="Baselines only: their test score in the serving engine.")
    start: MixtureStart | None = Field(None, description="Of a mixture that began with the weights of an earlier one.")
    gpu_memory: GpuMemory | None = Field(None, description="Of a run on a GPU.")
    packed_attention: PackedAttention | None = Field(None, description="None: no rows shared a sequence.")
    trained_together: int | None = Field(
        None, description="How many runs one process trained on one base, this one included. None: this one alone."
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
    interval_without_overlap: tuple[float, float] | None = None
    judged_without_overlap: bool = Field(
        False, description="The verdict is by ratioWithoutOverlap, not by ratio: enough other test rows are left."
    )
    cause: str = Field("", description="The reason as one CamelCase word, such as BelowThreshold or BaselineAtFloor.")
    advantage: tuple[float, float] | None = Field(
        None,
        description="95 % interval, over rows, of the score minus that of the best other answer: any seed of the "
        "baseline, or the best constant answer.",
    )
    seed_deviation: float | None = Field(
        None,
        description="Standard deviation of the score between training runs, as it stands in the interval: the task's "
        "own, moved towards that of the other tasks. Absent if no task has a second seed.",
    )
    degrees_of_freedom: float | None = Field(
        None, description="Those behind seedDeviation; 0: the interval is from rows alone."
    )

    @property
    def judged_ratio(self) -> float | None:
        """The ratio that the verdict is by."""
        return self.ratio_without_overlap if self.judged_without_overlap else self.ratio

    @property
    def judged_interval(self) -> tuple[float, float] | None:
        """The interval of `judged_ratio`."""
        return self.interval_without_overlap if self.judged_without_overlap else self.interval

    @property
    def is_surely_better(self) -> bool:
        """The verdict is open, but the shared model is surely at least as good as all else that could answer.

        Nothing is sure by test rows of which every one is in a train split.
        """
        if self.verdict != "Inconclusive" or self.cause == LEAKED_TEST_ROWS:
            return False
        if self.advantage is not None:
            return self.advantage[0] >= 0
        # A result of an older release has no advantage. Its interval is wider, as it also has other runs in it.
        floor = self.floor if self.floor is not None else self.score
        return self.interval is not None and self.interval[0] >= 1 and self.score >= max((floor, *self.baseline_scores))


class EvaluateResult(Record):
    """The verdicts of one group."""

    tasks: tuple[TaskVerdict, ...]
    truncated_rows: dict[str, int] = Field(default_factory=dict, description="Task → test rows that were cut to fit.")
    seed_variance: float | None = Field(
        None,
        description="Of older releases: variance of the log score between seeds, pooled over tasks. Now each task has "
        "its own, seedDeviation.",
    )
    degrees_of_freedom: int = Field(0, description="Seeds of all tasks beyond the first; 0: intervals are from rows.")


class ServedBy(Record):
    """Which model answers one task, and why."""

    task: str
    served_by: str | None = Field(None, description="The group, `baseline`, or absent when the task is not routed.")
    model: str | None = None
    adapter: str | None = None
    reason: str
    cause: str = Field("", description="The reason as one CamelCase word, such as Qualified or SurelyBetter.")


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
