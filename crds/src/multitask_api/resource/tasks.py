"""One task of a MultiTaskModel: its type, prompt, data and metric."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from multitask_api.bundle import BASE_MODEL, BASELINE, GenerationSettings
from multitask_api.errors import Problem, raise_problems
from multitask_api.resource.sources import ConfigMapKey, DataSource, DnsLabel, Steps
from multitask_api.template import TemplateError, fields_of
from multitask_api.types import Record

Label = Annotated[str, StringConstraints(min_length=1, max_length=256)]
FIELD_NAME = r"^[A-Za-z_][A-Za-z0-9_]*$"
FieldName = Annotated[str, StringConstraints(pattern=FIELD_NAME, max_length=63)]

TaskType = Literal["Classification", "Generation"]
Taxonomy = Literal["Binary", "Ordinal", "MultiClass"]
Metric = Literal["Accuracy", "MacroF1", "MatthewsCorrelation", "ExactMatch", "TokenF1", "RougeL", "Bleu"]

RESERVED_GROUPS = (BASE_MODEL, BASELINE)
"""Names that a group cannot have: bundles and routes use them for the base model and for baselines."""

MAX_PROMPT_FIELDS = 64
"""Fields of one prompt; routes list them with the same limit."""
MAX_FIELD_NAME_LENGTH = 64
"""Characters of the name of a prompt's field; the same limit holds in routes."""

CLASSIFICATION_METRICS = ("Accuracy", "MacroF1", "MatthewsCorrelation")
GENERATION_METRICS = ("ExactMatch", "TokenF1", "RougeL", "Bleu")


def comparable_label(label: str) -> str:
    """A label as it is compared: in Unicode's form NFC, because one text can be stored in several canonically equal
    forms (UAX #15), which look the same. What is trained and served keeps the form of the resource."""
    return unicodedata.normalize("NFC", label)


Share = Annotated[float, Field(gt=0, lt=1)]
Split = Literal["train", "validation", "test"]


class DataSplit(Record):
    """Which shares of the train rows become validation and test rows instead.

    A row is placed by a hash of its prompt fields: it stays where it is when rows are added or reordered, and rows with
    the same prompt fields, apart from case and white space, are always in one split.
    """

    validation: Share | None = Field(
        None, description="Share of the train rows that become the validation split, for example 0.1."
    )
    test: Share | None = Field(None, description="Share of the train rows that become the test split, for example 0.1.")
    seed: int = Field(1, ge=0, le=2**31 - 1, description="Another seed places the rows in another way.")


class TaskData(Record):
    """The three splits of a task's data, and the names of the fields that hold the answers."""

    train: DataSource = Field(description="Rows to train on. With split, shares of them become the other splits.")
    validation: DataSource | None = Field(
        None,
        description="Rows that choose the checkpoint and decide about early stopping during training. Required unless "
        "split.validation is set.",
    )
    test: DataSource | None = Field(
        None,
        description="Rows on which the task is scored and qualifies. Never trained on. Required unless split.test is "
        "set.",
    )
    split: DataSplit | None = Field(
        None,
        description="Shares of the train rows that become validation or test rows, for data in one file. About the "
        "given share of each label; a label with at least three different inputs is in every split.",
    )
    label_field: FieldName = Field("label", description="Field of a row that holds the label. Classification only.")
    target_field: FieldName = Field(
        "target", description="Field of a row that holds the reference answer. Generation only."
    )
    max_bad_rows: int = Field(
        0,
        ge=0,
        description="Number of invalid rows, all splits together, that are left out. With more of them the task fails.",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        raise_problems(self._split_problems())
        return self

    def _split_problems(self) -> Iterator[Problem]:
        validation, test = (self.split.validation, self.split.test) if self.split else (None, None)
        for name, source, share in (("validation", self.validation, validation), ("test", self.test, test)):
            if source is None and share is None:
                yield Problem(
                    name, f"required, but missing; give its rows, or their share of the train rows in split.{name}"
                )
            if source is not None and share is not None:
                yield Problem(f"split.{name}", f"data.{name} gives the rows already; remove one of the two")
        if self.split is not None and validation is None and test is None:
            yield Problem("split", "names no share; set validation or test, or remove it")
        if (validation or 0) + (test or 0) >= 1:
            yield Problem("split", f"{validation} and {test} leave no row to train on; their sum must be below 1")

    @property
    def sources(self) -> dict[Split, DataSource]:
        """The splits that have rows at an address of their own."""
        given: tuple[tuple[Split, DataSource | None], ...] = (
            ("train", self.train),
            ("validation", self.validation),
            ("test", self.test),
        )
        return {split: source for split, source in given if source is not None}


class DeclaredBaseline(Record):
    """A known result of a single-task model, used instead of training a baseline."""

    score: float = Field(gt=0, le=1, description="Test score of the single-task model on the metric of this task.")
    saturation_steps: Steps | None = Field(
        None,
        description="Optimizer steps after which the validation loss of the single-task model was lowest. Default: "
        "unknown; the task is then not trained in the highResource stage.",
    )


class TaskSpec(Record):
    """One text task: its type, prompt, data and metric."""

    name: DnsLabel = Field(description="Name of the task, a DNS label. Unique in the model; callers use it.")
    type: TaskType = Field(description="Classification answers with one of the labels, Generation with free text.")
    taxonomy: Taxonomy | None = Field(
        None,
        description="Kind of classification, used by filtering.strategy Taxonomy. Default: Binary for two labels, else "
        "MultiClass. Not allowed for Generation.",
    )
    labels: Annotated[tuple[Label, ...], Field(max_length=256)] = Field(
        (),
        description="All labels of a Classification task, at least two; for Ordinal from lowest to highest. Required "
        "unless labelsFrom is set; not allowed for Generation. Rows may use another Unicode form (NFC, NFD).",
    )
    labels_from: ConfigMapKey | None = Field(
        None, description="A ConfigMap key that holds the labels, one per line. Instead of labels, in a cluster only."
    )
    prompt: Annotated[str, StringConstraints(max_length=8192)] | None = Field(
        None,
        description="Template of the model's input: text with the fields of a row in braces, for example 'Text: "
        "{text}\\nLabel:'. Write {{ and }} for braces. Required unless promptFrom is set.",
    )
    prompt_from: ConfigMapKey | None = Field(
        None, description="A ConfigMap key that holds the prompt. Instead of prompt, in a cluster only."
    )
    data: TaskData = Field(description="The rows of the task: train, validation and test split.")
    language: Annotated[str, StringConstraints(pattern=r"^[a-z]{2,3}$")] = Field(
        "en",
        description="Language code of the answers. RougeL, TokenF1 and Bleu compare words, or characters for zh and "
        "ja. In scripts without spaces between words, such as Thai or Khmer, RougeL and TokenF1 compare characters in "
        "every language, and Bleu for th, lo, km and my.",
    )
    metric: Metric | None = Field(
        None,
        description="How answers are scored. Classification: Accuracy (default), MacroF1 (mean over the labels that "
        "occur in the rows or the answers), MatthewsCorrelation. Generation: RougeL (default), ExactMatch, TokenF1, "
        "Bleu.",
    )
    generation: GenerationSettings | None = Field(
        None, description="When a generated answer ends. Generation only; default: the defaults of its fields."
    )
    group: DnsLabel | None = Field(
        None,
        description="Group of the task. Required if filtering.strategy is Manual, otherwise not used. Not base or "
        "baseline.",
    )
    weight: float | None = Field(
        None,
        gt=0,
        le=1000,
        description="Multiplies the rate at which rows of this task are drawn in the mixture (stage 3): weight · "
        "min(rows, sizeLimit)^(1/τ), divided by the sum over the tasks of the group. The loss of a row, the number of "
        "steps of the mixture and baselines do not change; stage 2 has the tasks that the mixture would starve, and so "
        "may have others. Default: 1.",
    )
    baseline: DeclaredBaseline | None = Field(
        None,
        description="A known result of a single-task model. Default: a baseline is trained, unless stages.baseline is "
        "disabled.",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        rules = self._classification_problems() if self.type == "Classification" else self._generation_problems()
        raise_problems([*self._prompt_problems(), *rules, *self._group_problems()])
        return self

    def _prompt_problems(self) -> Iterator[Problem]:
        if (self.prompt is None) == (self.prompt_from is None):
            yield Problem("prompt", "set exactly one of prompt and promptFrom")
        if self.prompt is None:
            return
        try:
            fields = fields_of(self.prompt)
        except TemplateError as error:
            yield Problem("prompt", str(error))
            return
        if not fields:
            yield Problem("prompt", "contains no field, so every row gives the same input; add one, for example {text}")
        if len(fields) > MAX_PROMPT_FIELDS:
            yield Problem("prompt", f"has {len(fields)} fields; at most {MAX_PROMPT_FIELDS} are allowed; combine some")
        for name in (name for name in fields if len(name) > MAX_FIELD_NAME_LENGTH):
            length = f"has {len(name)} characters; at most {MAX_FIELD_NAME_LENGTH} are allowed"
            yield Problem("prompt", f"the field name {name[:16]}… {length}; shorten it")
        answer = self.data.label_field if self.type == "Classification" else self.data.target_field
        if answer in fields:
            yield Problem("prompt", f"contains the answer, {{{answer}}}; use only fields that a request has")

    def _generation_problems(self) -> Iterator[Problem]:
        if self.labels or self.labels_from:
            yield Problem("labels", "a Generation task has no labels; remove them or set type: Classification")
        if self.taxonomy is not None:
            yield Problem("taxonomy", "only a Classification task has a taxonomy; remove it")
        if self.metric is not None and self.metric not in GENERATION_METRICS:
            yield Problem(
                "metric", f"{self.metric} scores labels, not text; use one of {', '.join(GENERATION_METRICS)}"
            )

    def _classification_problems(self) -> Iterator[Problem]:
        if self.labels and self.labels_from:
            yield Problem("labels", "set labels or labelsFrom, not both")
        elif not self.labels_from:
            yield from self._label_problems()
        if self.generation is not None:
            yield Problem(
                "generation", "only a Generation task has generation settings; remove them or set type: Generation"
            )
        if self.metric is not None and self.metric not in CLASSIFICATION_METRICS:
            yield Problem(
                "metric", f"{self.metric} scores text, not labels; use one of {', '.join(CLASSIFICATION_METRICS)}"
            )

    def _label_problems(self) -> Iterator[Problem]:
        if len(self.labels) < 2:
            yield Problem("labels", f"a Classification task needs at least two labels, got {len(self.labels)}")
        repeated = sorted({label for label in self.labels if self.labels.count(label) > 1})
        if repeated:
            yield Problem("labels", f"{', '.join(map(repr, repeated))} occurs more than once; remove the duplicates")
        for same in self._labels_that_look_the_same():
            yield Problem(
                "labels",
                f"{' and '.join(map(ascii, same))} are the same text in different Unicode forms ({same[0]!r}); "
                "keep one",
            )
        for index, label in enumerate(self.labels):
            if label != label.strip():
                yield Problem(f"labels[{index}]", f"{label!r} begins or ends with white space; remove it")
        if self.taxonomy == "Binary" and len(self.labels) > 2:
            yield Problem("taxonomy", f"Binary needs two labels, got {len(self.labels)}; use MultiClass or Ordinal")

    def _labels_that_look_the_same(self) -> list[list[str]]:
        groups: dict[str, list[str]] = {}
        for label in dict.fromkeys(self.labels):
            groups.setdefault(comparable_label(label), []).append(label)
        return [group for group in groups.values() if len(group) > 1]

    def _group_problems(self) -> Iterator[Problem]:
        if self.group in RESERVED_GROUPS:
            yield Problem("group", f"{self.group!r} is a reserved name; choose another")

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
