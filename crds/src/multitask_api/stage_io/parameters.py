"""The parameters of the stage programs: one record for each kind of stage.

``identity`` is the part of the parameters that enters the stage's digest; everything else (URIs, thread counts)
may change without changing the result.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from multitask_api.bundle import GenerationSettings
from multitask_api.resource.sources import Pretraining
from multitask_api.resource.tasks import Metric, TaskData, TaskSpec, TaskType, Taxonomy
from multitask_api.resource.training import HighResourceStage, MixtureStage, Optimizer, Training
from multitask_api.resource.tuning import Tuning
from multitask_api.types import Record


class TaskDefinition(Record):
    """The part of a task that training, scoring and serving read."""

    name: str
    type: TaskType
    taxonomy: Taxonomy | None = None
    labels: tuple[str, ...] = ()
    prompt: str
    language: str = "en"
    metric: Metric
    generation: GenerationSettings | None = None

    @classmethod
    def of(cls, task: TaskSpec) -> TaskDefinition:
        """The definition of a resource's task, with defaults filled in. ``promptFrom`` must have been resolved."""
        if task.prompt is None:
            raise ValueError(f"task {task.name}: promptFrom must be resolved before the graph is built")
        generation = (task.generation or GenerationSettings()) if task.type == "Generation" else None
        return cls(
            name=task.name,
            type=task.type,
            taxonomy=task.resolved_taxonomy,
            labels=task.labels,
            prompt=task.prompt,
            language=task.language,
            metric=task.resolved_metric,
            generation=generation,
        )


class Optimisation(Record):
    """The part of ``spec.training`` that changes results."""

    batch_rows: int
    learning_rate: float
    warmup_steps: int
    max_length: int
    seed: int
    eval_every: int
    min_steps: int
    patience: int
    precision: Literal["fp32", "bf16"]
    optimizer: Optimizer | None = None
    validations: int | None = Field(
        None, description="This number of them at equal distances, the last at the limit of steps, not by eval_every."
    )

    @classmethod
    def of(
        cls,
        training: Training,
        *,
        seed: int | None = None,
        min_steps: int | None = None,
        validations: int | None = None,
        learning_rate: float | None = None,
    ) -> Optimisation:
        """Take the fields of ``spec.training``; the others replace those there."""
        values = {name: getattr(training, name) for name in cls.model_fields if name in Training.model_fields}
        given = {"seed": seed, "min_steps": min_steps, "validations": validations, "learning_rate": learning_rate}
        return cls(**(values | {name: value for name, value in given.items() if value is not None}))


class StageParameters(Record):
    """The root of the parameter records."""

    def identity(self) -> dict[str, object]:
        """The part that enters the digest; by default all that any stage reads."""
        return {name: _read(getattr(self, name)) for name in type(self).model_fields}


def _read(value: object) -> object:
    """The value without what no stage reads: taxonomy (it only groups), language of labels, rank without adapters."""
    if isinstance(value, TaskDefinition):
        unread = {"taxonomy"} if value.type == "Generation" else {"taxonomy", "language"}
        return value.model_dump(mode="json", by_alias=True, exclude_none=True, exclude=unread)
    if isinstance(value, Tuning) and value.method == "Full":
        return {"method": "Full"}
    if isinstance(value, Record):
        return value.to_json()
    return [_read(item) for item in value] if isinstance(value, tuple) else value


class PrepareParameters(StageParameters):
    """Read, check and normalise one task's rows."""

    task: TaskDefinition
    data: TaskData
    fingerprints: dict[str, str] = Field(description="Split name → fingerprint of its data, of those with an address.")

    def identity(self) -> dict[str, object]:
        """The content of the data instead of its URI; of the task only what decides whether a row is valid."""
        split = {} if self.data.split is None else {"split": self.data.split.to_json()}
        return {
            **split,
            "task": {"type": self.task.type, "labels": self.task.labels, "prompt": self.task.prompt},
            "fields": {"label": self.data.label_field, "target": self.data.target_field},
            "maxBadRows": self.data.max_bad_rows,
            "fingerprints": self.fingerprints,
        }


class BaseParameters(StageParameters):
    """Create tokenizer and weights of the base model, with continued pretraining if configured."""

    uri: str
    revision: str | None = None
    fingerprint: str | None = Field(None, description="Fingerprint of the files, if the base model is a folder.")
    gguf_file: str | None = Field(None, description="The GGUF file that is read; None: a transformers folder.")
    pretraining: Pretraining | None = None
    corpus_fingerprints: tuple[str, ...] = ()
    tasks: tuple[TaskDefinition, ...]
    optimisation: Optimisation
    tuning: Tuning | None = Field(None, description="Checked against the base's layers; None: all weights are trained.")

    def identity(self) -> dict[str, object]:
        """Without the tasks: otherwise a new task would change the base model and so retrain everything.

        Without the tuning: a base is the same base for all of them, and training checks its own.
        ``pretraining.refresh`` requests a new one. For a folder its content counts, not its URI.
        """
        source = {"uri": self.uri, "revision": self.revision, "ggufFile": self.gguf_file}
        folder = {"fingerprint": self.fingerprint}
        settings: dict[str, object] = {**(folder if self.fingerprint else source), "seed": self.optimisation.seed}
        if self.pretraining is not None:
            settings["pretraining"] = self.pretraining.model_dump(mode="json", by_alias=True, exclude={"corpus"})
            settings["corpus"] = self.corpus_fingerprints
            kept = {"batch_rows", "learning_rate", "warmup_steps", "max_length", "precision", "optimizer"}
            settings["optimisation"] = self.optimisation.model_dump(mode="json", by_alias=True, include=kept)
        return settings


class TrainParameters(StageParameters):
    """Train on one or more tasks: a baseline, stage 2 or stage 3 (see ``kind``)."""

    kind: Literal["baseline", "high-resource", "mixture"]
    tasks: tuple[TaskDefinition, ...]
    probabilities: dict[str, float] = Field(description="Task → p_i; sums to 1.")
    max_steps: int = Field(ge=1)
    optimisation: Optimisation
    tuning: Tuning
    chat_template: bool = False
    reference_scores: dict[str, float] = Field(
        default_factory=dict,
        description="Mixture: each task's baseline validation score; the checkpoint with the highest mean ratio wins.",
    )


class GradientsParameters(StageParameters):
    """Sketch the gradient of one task at the base model.

    ``precision`` changes nothing beyond rounding, which is far below the differences between rows.
    """

    task: TaskDefinition
    rows: int = Field(ge=2, description="The most training rows that are read.")
    target_modules: tuple[str, ...] = Field((), description="As in ``Tuning``: the layers whose gradients are taken.")
    max_length: int
    seed: int
    chat_template: bool = False
    precision: Literal["fp32"] | None = Field(None, description="Of the computation on a GPU; None: bf16.")

    def identity(self) -> dict[str, object]:
        """Without the precision."""
        return {name: value for name, value in super().identity().items() if name != "precision"}


class AffinityParameters(StageParameters):
    """Compare the gradients of the tasks, and group them."""

    candidates: dict[str, tuple[str, ...]] = Field(
        description="Group → the tasks that may be trained together, in the order of the resource."
    )
    max_groups: int | None = None


class CheckParameters(StageParameters):
    """Train a task with and without the tasks that are said to hurt it."""

    task: str
    without: tuple[str, ...] = Field(description="The tasks of its group that the second run leaves out.")
    tasks: tuple[TaskDefinition, ...]
    probabilities: dict[str, float] = Field(description="Of the first run: task → p_i; sums to 1.")
    max_steps: int = Field(ge=1, description="Of the first run; the second gives every task that is left as many rows.")
    optimisation: Optimisation
    tuning: Tuning
    chat_template: bool = False


class FilterParameters(StageParameters):
    """Group the tasks, choose the high-resource ones, fix the sampling probabilities and budgets."""

    groups: dict[str, tuple[str, ...]]
    high_resource: HighResourceStage
    mixture: MixtureStage
    batch_rows: int
    baselines_enabled: bool
    declared_saturation_steps: dict[str, int] = Field(default_factory=dict)
    total_steps: int | None = Field(None, ge=1, description="``stages.totalSteps``.")
    weights: dict[str, float] | None = Field(None, description="Task → its weight in the mixture, where it is not 1.")


class BundleParameters(StageParameters):
    """Convert the mixtures to the form in which they are served."""

    groups: dict[str, tuple[str, ...]]
    tasks: tuple[TaskDefinition, ...]
    tuning: Tuning
    precision: Literal["fp32", "bf16"]
    max_length: int
    chat_template: bool = False


class EvaluateParameters(StageParameters):
    """Score the test rows of a group with the serving engine, and compare each task with its baseline."""

    group: str
    tasks: tuple[TaskDefinition, ...]
    threshold: float
    rule: Literal["Point", "LowerBound"]
    declared_baselines: dict[str, float] = Field(default_factory=dict)
    seed: int


class ExportParameters(StageParameters):
    """Decide which model answers each task, and write the files of the servers."""

    model: str
    groups: dict[str, tuple[str, ...]]
    tasks: tuple[TaskDefinition, ...]
    promote: Literal["Qualified", "AllQualified"]
    precision: Literal["fp32", "bf16"]


class VerifyParameters(StageParameters):
    """Send the test rows through gateway and Triton and compare with the evaluation."""

    tasks: tuple[TaskDefinition, ...]
    precision: Literal["fp32", "bf16"]


class LedgerParameters(StageParameters):
    """Measure N single-task servers, of the tasks that are exported, against the one multi-task server."""

    load_per_task: float = Field(10.0, gt=0, description="Requests per second of each task, for the replica count.")
