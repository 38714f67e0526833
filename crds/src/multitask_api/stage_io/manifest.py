"""The files between an executor and a stage program: order, progress, failure, manifest."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from multitask_api.estimates.shape import ModelShape
from multitask_api.resource.training import GradientCheckpointing, Sharding, Tracker
from multitask_api.types import Record

MANIFEST = "manifest.json"
ROWS_FOLDER = "rows"
"""Beside the work folders of a model's stages, for all of them: rows as token ids, in a folder for each ``prepare``
artifact, of the name that `artifact_filename` gives it."""


class StageOrder(Record):
    """Everything that a stage program needs, as one JSON file: ``python -m … --order FILE``."""

    model: str = Field(description="Name of the model; in a cluster with its namespace: team-a/desk.")
    stage: str
    kind: str
    digest: str
    version: int
    parameters: dict[str, object] = Field(description="The record of ``stage_io.parameters`` for this kind, as JSON.")
    read_outputs: dict[str, str] = Field(description="'stage#output' → its digest; part of the stage's digest.")
    inputs: dict[str, str] = Field(description="Stage name → URI or path of its artifact folder.")
    output: str = Field(description="URI or path of the artifact folder to write; the manifest comes last.")
    work: str = Field(description="Local folder for checkpoints and scratch files; kept when the stage is restarted.")
    checkpoint: str | None = Field(
        None, description="URI to which checkpoints are copied, if ``work`` does not outlive the pod."
    )
    progress: str | None = Field(None, description="Local file for progress reports; None: no reports.")
    threads: int = Field(1, ge=1)
    device: str = Field("auto", description="auto, cpu or cuda.")
    data_root: str = Field(".", description="The folder that relative data paths are relative to.")
    gradient_checkpointing: GradientCheckpointing | None = Field(
        None, description="``training.gradientCheckpointing``, of stages that train; None: Auto."
    )
    sharding: Sharding | None = Field(
        None, description="``training.sharding``, of stages that several processes train; None: Auto."
    )
    report_to: tuple[Tracker, ...] | None = Field(
        None, description="``training.reportTo``, of stages that train; None: no trackers."
    )


def _check_relative_path(name: str) -> str:
    if not name or name.startswith("/") or ".." in name.split("/"):
        raise ValueError(f"{name!r} is not a path below its folder")
    return name


RelativePath = Annotated[str, AfterValidator(_check_relative_path)]
"""A relative path without ``..``: manifests are read from storage that others may write to."""


class FileEntry(Record):
    """One file of an artifact."""

    sha256: str
    bytes: int


class Manifest(Record):
    """The last file that a stage writes: an artifact folder without a manifest is incomplete."""

    schema_: Literal["multitask.dev/manifest/v1"] = Field("multitask.dev/manifest/v1", alias="schema")
    model: str | None = Field(
        None, description="The model whose run made it, as in the order; other models may use the result too."
    )
    stage: RelativePath
    kind: str
    digest: RelativePath
    version: int
    read_outputs: dict[str, str]
    outputs: dict[str, str] = Field(description="Output name → digest of its content.")
    files: dict[RelativePath, FileEntry]
    folder: RelativePath | None = Field(
        None, description="Subfolder of the artifact folder that has the files; None: the folder itself."
    )
    result: dict[str, object] = Field(description="The record of ``stage_io.results`` for this kind, as JSON.")
    seconds: float
    environment: dict[str, str] = Field(default_factory=dict, description="Versions, device, host; never in a digest.")


class StagePosition(Record):
    """How far a stage is."""

    stage: str
    phase: str = ""
    step: int = 0
    total: int = 0
    loss: float | None = None
    score: float | None = None
    tokens_per_second: float | None = None


class StageProgress(StagePosition):
    """How far a running stage is. The file is replaced at most once a second."""

    updated: float = Field(0.0, description="Unix seconds.")
    together: tuple[StagePosition, ...] | None = Field(
        None, description="Of the other stages that train in the same process, in a report that is about all of them."
    )


class StageFailure(Record):
    """Why a stage ended without a manifest: ``failure.json`` in its work folder, and exit code 2 or 75.

    ``UserError`` (exit 2) is final until the input changes; ``Retryable`` (exit 75) may be tried again; ``Fault`` (any
    other exit) is an error in the program.
    """

    stage: str
    kind: Literal["UserError", "Retryable", "Fault"]
    message: str


class ResolvedData(Record):
    """What is at one URI: its fingerprint and size, or why it cannot be read."""

    fingerprint: str | None = None
    files: int = 0
    bytes: int = 0
    problem: str | None = None


class RowSample(Record):
    """The first training rows of a task, for estimates."""

    rows: int = Field(description="How many were read.")
    is_complete: bool = Field(description="These are all rows of data.train.")
    tokens: float = Field(description="Of a row with its prompt and answer, by the length of the text; the mean.")


class Resolved(Record):
    """The result of ``resolve``: the versions of data and base model that this run uses."""

    revision: str | None = Field(None, description="The commit of a base model on the hub.")
    data: dict[str, ResolvedData] = Field(description="URI → what is there.")
    problems: tuple[str, ...] = ()
    base_parameters: int | None = Field(
        None, description="Weights of the base model, if they can be counted without loading it; for estimates only."
    )
    base_shape: ModelShape | None = Field(
        None, description="Its shape, if it can be known without loading it; for estimates only."
    )
    rows: dict[str, RowSample] | None = Field(
        None,
        description="Task → its first rows, without the tasks whose data cannot be read where this was made; in a plan "
        "of a file only, for estimates.",
    )
