"""One task of a MultiTaskModel: its kind, its prompt, its data, how it is judged."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from multitask_api.bundle import BASE_MODEL, BASELINE, GenerationSettings
from multitask_api.errors import Problem
from multitask_api.resource.problems import refuse
from multitask_api.template import TemplateError, fields_of
from multitask_api.types import Record
from multitask_api.uris import DATA_SCHEMES, uri_error

DNS_LABEL = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"

DnsLabel = Annotated[str, StringConstraints(pattern=DNS_LABEL, max_length=63)]
Address = Annotated[str, StringConstraints(min_length=1, max_length=1024)]


def _data_address(address: str) -> str:
    fault = uri_error(address, DATA_SCHEMES)
    if fault is not None:
        raise ValueError(fault)
    return address


DataAddress = Annotated[Address, AfterValidator(_data_address)]
Label = Annotated[str, StringConstraints(min_length=1, max_length=256)]
FieldName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=63)]

TaskType = Literal["Classification", "Generation"]
Taxonomy = Literal["Binary", "Ordinal", "MultiClass"]
Metric = Literal["Accuracy", "MacroF1", "MatthewsCorrelation", "ExactMatch", "TokenF1", "RougeL", "Bleu"]

RESERVED_GROUPS = (BASE_MODEL, BASELINE)
"""What a group cannot be called: in a bundle and in its routes these names mean something else."""

MOST_FIELDS = 64
LONGEST_FIELD = 64
"""Of a prompt: what the routes that gateways read hold, and characters of a field's name."""

CLASSIFICATION_METRICS = ("Accuracy", "MacroF1", "MatthewsCorrelation")
GENERATION_METRICS = ("ExactMatch", "TokenF1", "RougeL", "Bleu")


class DataSource(Record):
    """Where rows are: a file or folder of jsonl, jsonl.gz, csv or parquet."""

    uri: DataAddress = Field(description="file path, file://, hf://, s3:// or pvc:// address of a file or folder.")


class TaskData(Record):
    """The three splits of a task, and the names of its answer fields."""

    train: DataSource
    validation: DataSource
    test: DataSource
    label_field: FieldName = Field("label", description="The field that holds a classification row's label.")
    target_field: FieldName = Field("target", description="The field that holds a generation row's reference.")
    max_bad_rows: int = Field(0, ge=0, description="Bad rows (all splits together) that are dropped instead of fatal.")


class DeclaredBaseline(Record):
    """A known single-task result, used instead of training one."""

    score: float = Field(gt=0, le=1, description="Test score of the single-task model, on this task's metric.")
    saturation_steps: int | None = Field(None, ge=1, description="Steps that single-task training needed.")


class ConfigMapKey(Record):
    """A key of a ConfigMap in the resource's namespace."""

    name: str = Field(max_length=253)
    key: str = Field(max_length=253)


class TaskSpec(Record):
    """One text task."""

    name: DnsLabel = Field(description="A DNS label, unique in the model.")
    type: TaskType
    taxonomy: Taxonomy | None = Field(None, description="Default: Binary for two labels, else MultiClass.")
    labels: Annotated[tuple[Label, ...], Field(max_length=256)] = Field(
        (), description="Classification: all labels; for Ordinal from lowest to highest."
    )
    labels_from: ConfigMapKey | None = Field(None, description="Labels from a ConfigMap key, one a line.")
    prompt: Annotated[str, StringConstraints(max_length=8192)] | None = Field(
        None, description="A template over the fields of a row, as in 'Text: {text}\\nLabel:'."
    )
    prompt_from: ConfigMapKey | None = Field(None, description="The prompt from a ConfigMap key.")
    data: TaskData
    language: Annotated[str, StringConstraints(pattern=r"^[a-z]{2,3}$")] = Field(
        "en", description="How RougeL, TokenF1 and Bleu split text: words, or characters for zh and ja."
    )
    metric: Metric | None = Field(
        None,
        description="Default: Accuracy for Classification, RougeL for Generation. MacroF1 is the mean over the labels "
        "that occur in the rows or in the answers to them.",
    )
    generation: GenerationSettings | None = Field(None, description="Generation only.")
    group: DnsLabel | None = Field(
        None, description="The task's group under filtering.strategy Manual; not `base` or `baseline`."
    )
    baseline: DeclaredBaseline | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        rules = self._classification_problems() if self.type == "Classification" else self._generation_problems()
        refuse([*self._prompt_problems(), *rules, *self._group_problems()])
        return self

    def _prompt_problems(self) -> Iterator[Problem]:
        if (self.prompt is None) == (self.prompt_from is None):
            yield Problem("prompt", "give exactly one of prompt and promptFrom")
        if self.prompt is None:
            return
        try:
            fields = fields_of(self.prompt)
        except TemplateError as fault:
            yield Problem("prompt", str(fault))
            return
        if not fields:
            yield Problem("prompt", "names no field, so every row would ask the same; name one, as in {text}")
        if len(fields) > MOST_FIELDS:
            yield Problem("prompt", f"names {len(fields)} fields, and at most {MOST_FIELDS} can be served; join some")
        for name in (name for name in fields if len(name) > LONGEST_FIELD):
            text = f"the name {name[:16]}… has {len(name)} characters, and at most {LONGEST_FIELD} can be served"
            yield Problem("prompt", f"{text}; shorten it")
        answer = self.data.label_field if self.type == "Classification" else self.data.target_field
        if answer in fields:
            yield Problem(
                "prompt", f"shows the model the answer, {{{answer}}}; name only fields that a request carries"
            )

    def _generation_problems(self) -> Iterator[Problem]:
        if self.labels or self.labels_from:
            yield Problem("labels", "a Generation task has no labels; remove them or set type: Classification")
        if self.taxonomy is not None:
            yield Problem("taxonomy", "only a Classification task has one; remove it")
        if self.metric is not None and self.metric not in GENERATION_METRICS:
            yield Problem("metric", f"{self.metric} judges labels; use one of {', '.join(GENERATION_METRICS)}")

    def _classification_problems(self) -> Iterator[Problem]:
        if self.labels and self.labels_from:
            yield Problem("labels", "give labels or labelsFrom, not both")
        elif not self.labels_from:
            yield from self._label_problems()
        if self.generation is not None:
            yield Problem("generation", "only a Generation task has it; remove it or set type: Generation")
        if self.metric is not None and self.metric not in CLASSIFICATION_METRICS:
            yield Problem("metric", f"{self.metric} judges text; use one of {', '.join(CLASSIFICATION_METRICS)}")

    def _label_problems(self) -> Iterator[Problem]:
        if len(self.labels) < 2:
            yield Problem("labels", f"a Classification task needs at least two labels, got {len(self.labels)}")
        repeated = sorted({label for label in self.labels if self.labels.count(label) > 1})
        if repeated:
            yield Problem("labels", f"{', '.join(map(repr, repeated))} given more than once; labels must be unique")
        for index, label in enumerate(self.labels):
            if label != label.strip():
                yield Problem(f"labels[{index}]", f"{label!r} begins or ends with white space; remove it")
        if self.taxonomy == "Binary" and len(self.labels) > 2:
            yield Problem("taxonomy", f"Binary means two labels, got {len(self.labels)}; use MultiClass or Ordinal")

    def _group_problems(self) -> Iterator[Problem]:
        if self.group in RESERVED_GROUPS:
            yield Problem("group", f"{self.group!r} is a name that serving uses itself; choose another")

    @property
    def resolved_metric(self) -> Metric:
        """The metric, with the default of the task's type."""
        return self.metric or ("Accuracy" if self.type == "Classification" else "RougeL")

    @property
    def resolved_taxonomy(self) -> Taxonomy | None:
        """The taxonomy, derived from the labels when not given; None for generation."""
        if self.type == "Generation":
            return None
        return self.taxonomy or ("Binary" if len(self.labels) == 2 else "MultiClass")
