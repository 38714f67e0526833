"""A *revision*: one trained result together with the pods that serve it. It never changes; another one replaces it.

The operator writes it as an immutable ConfigMap, which the pods of the revision mount.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from multitask_api.types import Record

REVISION_KEY = "revision.json"
"""In ``data`` of the ConfigMap: a `Revision`."""
MAX_GOLDEN_PER_TASK = 200
"""Rows of a task in ``golden.jsonl``."""


class RevisionTask(Record):
    """A task of a revision: what callers may know of it, and what it was measured to be worth."""

    name: str
    type: Literal["Classification", "Generation"]
    fields: tuple[str, ...]
    labels: tuple[str, ...] = ()
    served_by: str = Field(description="The group whose shared model answers, or `bundle.BASELINE`.")
    metric: str
    score: float | None = Field(None, description="Test score of what answers.")
    baseline: float | None = Field(None, description="Test score of the single-task model.")
    verdict: str | None = None
    contract: str = Field(
        description="Digest of type, fields and labels: callers of a task cannot be moved gradually to another one."
    )


class Revision(Record):
    """Everything that makes a revision what it is."""

    revision: str = Field(description="8 hexadecimal digits: a digest of bundle, pod template and resources.")
    model: str = Field(description="NAMESPACE/NAME of the MultiTaskModel.")
    trained: str = Field(description="The trained revision, as the stage export and the bundle name it.")
    generation: int = Field(description="The metadata.generation of the model that it was made for.")
    storage: str = Field(description="URI or path of storage as pods see it.")
    artifact: str = Field(description="Folder of the exported result, relative to storage: bundle/, golden.jsonl …")
    bundle_digest: str = Field(description="Digest of the folder bundle/, as the manifest of the stage export has it.")
    bundle_bytes: int = Field(description="Bytes of weights and adapters.")
    image: str = Field(description="The image of the servers; it stays when the operator is upgraded.")
    tasks: tuple[RevisionTask, ...]
    test_data: dict[str, str] = Field(
        default_factory=dict, description="Task → digest of the test rows that it was measured on."
    )
