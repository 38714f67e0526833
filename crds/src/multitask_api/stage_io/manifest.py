"""What passes between an executor and a stage program: the order, the progress, the manifest."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from multitask_api.types import Record

MANIFEST = "manifest.json"


class StageOrder(Record):
    """One JSON file that tells a stage program everything; it starts with ``python -m … --order FILE``."""

    model: str = Field(description="Its name; in a cluster with its namespace before it: team-a/desk.")
    stage: str
    kind: str
    digest: str
    version: int
    parameters: dict[str, object] = Field(description="The kind's record of ``stage_io.parameters``, as JSON.")
    read_outputs: dict[str, str] = Field(description="'stage#output' → output digest, as they enter the digest.")
    inputs: dict[str, str] = Field(description="Stage name → address of its artifact folder.")
    output: str = Field(description="Address of the artifact folder to fill; the manifest is written last.")
    work: str = Field(description="A local folder for checkpoints and scratch; survives a restart of the stage.")
    checkpoint: str | None = Field(
        None, description="Where ``work`` ends with the pod: the address to which checkpoints are copied as well."
    )
    progress: str | None = Field(None, description="A local file that the Reporter replaces; None reports nothing.")
    threads: int = Field(1, ge=1)
    device: str = Field("auto", description="auto, cpu or cuda.")
    data_root: str = Field(".", description="Relative data addresses are relative to this folder.")


def _check_relative_path(name: str) -> str:
    if not name or name.startswith("/") or ".." in name.split("/"):
        raise ValueError(f"{name!r} does not lie below its folder")
    return name


RelativePath = Annotated[str, AfterValidator(_check_relative_path)]
"""A relative path that stays below the folder it is joined to: manifests are read from stores that others write to."""


class FileEntry(Record):
    """One file of an artifact."""

    sha256: str
    bytes: int


class Manifest(Record):
    """The last file a stage writes: a folder without one is not a result."""

    schema_: Literal["multitask.dev/manifest/v1"] = Field("multitask.dev/manifest/v1", alias="schema")
    model: str | None = Field(None, description="For which it was made, as the order says; others may use it too.")
    stage: RelativePath
    kind: str
    digest: RelativePath
    version: int
    read_outputs: dict[str, str]
    outputs: dict[str, str] = Field(description="Output name → digest of its content.")
    files: dict[RelativePath, FileEntry]
    folder: RelativePath | None = Field(
        None, description="Below the artifact's address: where the files lie, if not there itself."
    )
    result: dict[str, object] = Field(description="The kind's record of ``stage_io.results``, as JSON.")
    seconds: float
    environment: dict[str, str] = Field(default_factory=dict, description="Versions, device, host; never in a digest.")


class StageProgress(Record):
    """Where a running stage is. The Reporter replaces the file at most once a second."""

    stage: str
    phase: str = ""
    step: int = 0
    total: int = 0
    loss: float | None = None
    score: float | None = None
    tokens_per_second: float | None = None
    updated: float = Field(0.0, description="Unix seconds.")


class StageFailure(Record):
    """Why a stage ended without a manifest: ``failure.json`` in its work folder, and exit code 2 or 75.

    ``UserError`` (exit 2) is final until the input changes; ``Retryable`` (exit 75) may be tried again; any other exit
    is a fault of the program.
    """

    stage: str
    kind: Literal["UserError", "Retryable", "Fault"]
    message: str


class ResolvedData(Record):
    """One address, looked at."""

    fingerprint: str | None = None
    files: int = 0
    bytes: int = 0
    problem: str | None = None


class Resolved(Record):
    """What ``resolve`` found out about the world outside the resource."""

    revision: str | None = Field(None, description="The base model's commit, for hub addresses.")
    data: dict[str, ResolvedData] = Field(description="Address → what is there.")
    problems: tuple[str, ...] = ()
