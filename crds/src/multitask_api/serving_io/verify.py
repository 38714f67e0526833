"""The Job that compares what a new revision answers with what it was measured to answer: ``VERIFY_COMMAND``.

It runs when the servers are ready and the gateways know the revision, before the revision gets traffic. As stage pods
do (`multitask_api.cluster`), it reads its order from a ConfigMap, mounted at ``ORDERS_PATH``, and reports into it::

    operator  ──  data: verify.json                               ──▶  pod
    operator  ◀──  data: progress.json, verified.json | failure.json  ──  pod (merge patch)

The pod mounts storage, and calls the gateway. It ends with `EXIT_DONE` when a `RevisionReport` is written, whatever
that says: what follows from it is the operator's decision. A gateway that does not answer, or does not know the
revision yet, is `EXIT_RETRYABLE`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from multitask_api.serving_io.revision import MAX_GOLDEN_PER_TASK
from multitask_api.stage_io.results import VerifyResult
from multitask_api.types import Record

VERIFY_REVISION = "verify-revision"
"""Value of the label ``multitask.dev/kind`` on Job and ConfigMap."""
VERIFY_KEY = "verify.json"
"""In ``data``, written by the operator: a `VerifyOrder`."""
VERIFIED_KEY = "verified.json"
"""In ``data``, written by the pod: a `RevisionReport`."""
VERIFY_COMMAND = ("python", "-m", "multitask_trainer.verify_revision")

MAX_SCORE_LOSS = 0.01
"""A task computed on another kind of device may lose so much of its mean score on the golden requests."""
MAX_EXAMPLES = 10
"""Rows that are named for each task."""


class VerifiedTask(Record):
    """A task of the new revision."""

    name: str
    metric: str = Field(description="Scores a row's answer: it tells which of two texts is the better one.")
    language: str = Field("en", description="Of its texts, for the metric.")
    same_contract: bool = Field(
        False, description="The previous revision has this task, with the same type, labels and fields."
    )
    same_rows: bool = Field(
        False,
        description="The previous revision was measured on the same test rows: the answers of both are in storage, and "
        "nothing is asked. Otherwise it is asked the golden requests of the new one.",
    )


class PreviousRevision(Record):
    """The revision that is served now."""

    revision: str
    artifact: str = Field(description="Folder of its exported result, relative to storage.")


class VerifyOrder(Record):
    """What to compare."""

    model: str = Field(description="NAMESPACE/NAME of the model; requests name the tasks in full.")
    revision: str = Field(description="The new revision; requests are pinned to it.")
    storage: str = Field(description="URI or path of storage as pods see it.")
    artifact: str = Field(description="Folder of the new revision's exported result, relative to storage.")
    tasks: tuple[VerifiedTask, ...]
    previous: PreviousRevision | None = Field(None, description="Absent: there is none, or it is not compared.")
    gateway: str = Field(description="HOST:PORT of the gateways' Service.")
    token_file: str | None = Field(None, description="A file with the bearer token of the requests. Absent: none.")
    ca_file: str | None = Field(
        None, description="The certificates that the gateway's is checked against. Absent: the gateway has no TLS."
    )
    rows: int = Field(MAX_GOLDEN_PER_TASK, ge=1, description="The most golden requests of each task.")


class Flip(Record):
    """A row that the two revisions answer differently. Rows are named by number, so that no text is repeated."""

    row: int = Field(description="Number of the row in the task's test rows, from 0.")
    change: Literal["RightToWrong", "WrongToRight", "WrongToWrong"] = Field(
        description="Of a generated text, by the row's score: it fell, it rose, or it stayed."
    )
    margin: float | None = Field(
        None, description="Nats by which the new revision's answer leads its second best one; absent: not measured."
    )
    before: str = Field("", description="Label of the previous revision; empty for a generated text.")
    after: str = Field("", description="Label of the new revision; empty for a generated text.")


class TaskFlips(Record):
    """How the answers to one task change from the previous revision to the new one."""

    compared: int
    right_to_wrong: int = 0
    wrong_to_right: int = 0
    wrong_to_wrong: int = 0
    basis: Literal["TestRows", "GoldenRows"] = Field(
        description="TestRows: all test rows, by the answers of both evaluations. GoldenRows: the golden requests, "
        "which the previous revision was asked through the gateway."
    )
    nearest: tuple[Flip, ...] = Field((), description="Up to ten rows, those with the smallest margins first.")

    @property
    def changed(self) -> int:
        """Rows whose answers differ."""
        return self.right_to_wrong + self.wrong_to_right + self.wrong_to_wrong


class OtherDevice(Record):
    """Answers that differ by more than a near tie, and were computed on another kind of device than the evaluation's.

    Sums round differently there, so the task is judged by its score: `different` counts them only where that fell.
    """

    served_on: tuple[str, ...]
    measured_on: tuple[str, ...]
    tasks: dict[str, int] = Field(description="Task → how many of its golden requests.")
    lost: dict[str, float] = Field(
        default_factory=dict, description="Task → by how much its mean score on the golden requests fell, if too much."
    )


class RevisionReport(Record):
    """What the Job found."""

    revision: str
    result: VerifyResult = Field(
        description="Served answers against the revision's own evaluation. Only `different` is a fault: near ties are "
        "rows whose two best answers are as good as equal."
    )
    previous: str = Field("", description="The revision that it was compared with; empty: none.")
    flips: dict[str, TaskFlips] = Field(default_factory=dict, description="Task → how its answers change.")
    not_compared: dict[str, str] = Field(
        default_factory=dict,
        description="Task → why it was not compared with the previous revision.",
    )
    other_device: OtherDevice | None = Field(
        None, description="Absent: answers differ by no more than a near tie, or were computed as in the evaluation."
    )
