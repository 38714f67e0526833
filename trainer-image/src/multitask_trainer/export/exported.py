"""Reads what verifying needs of an exported result, at any storage: golden requests, answers, the precision."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from multitask_api.bundle import Bundle
from multitask_api.types import JsonObject
from multitask_trainer.data.rows import Row
from multitask_trainer.errors import ArtifactError, StageError
from multitask_trainer.evaluation.agreement import NEAR_TIES
from multitask_trainer.evaluation.answers import Answer, read_scores
from multitask_trainer.storage.artifacts import check_files, content_uri, copy_files, read_manifest

_BUNDLE, _GOLDEN, _ANSWERS = "bundle/bundle.json", "golden.jsonl", "answers/"


@dataclass(frozen=True)
class GoldenRow:
    """A golden request: the number of its row in the task's test rows, and the evaluation's answer to it."""

    number: int
    row: Row
    answer: Answer
    device: str | None = None
    """What computed the answer; None: an older release did not record it."""


@dataclass(frozen=True)
class ExportedResult:
    """The files that were copied to ``folder``."""

    uri: str
    folder: Path
    bundle: Bundle

    @classmethod
    def read(cls, uri: str, folder: Path) -> ExportedResult:
        """Copy the few files, without the weights. Raises `StageError` if there is no result, or `ArtifactError`."""
        manifest = read_manifest(uri)
        if manifest is None:
            raise StageError(f"{uri} has no manifest: the exported result of the revision is no longer in storage")
        files = {
            name: entry
            for name, entry in manifest.files.items()
            if name in (_BUNDLE, _GOLDEN) or name.startswith(_ANSWERS)
        }
        copy_files(content_uri(uri, manifest), folder, files)
        check_files(uri, folder, manifest, files)
        return cls(uri, folder, Bundle.model_validate_json((folder / _BUNDLE).read_bytes()))

    def answers(self, task: str) -> list[Answer]:
        """The evaluation's answers to all test rows of a task. Raises `StageError` if the result has none."""
        path = self.folder / _ANSWERS / f"{task}.parquet"
        if not path.exists():
            raise StageError(f"{self.uri} has no answers of task {task!r}: it was not routed")
        return read_scores(path)

    def golden(self, task: str, most: int) -> list[GoldenRow]:
        """At most ``most`` golden requests of a task, evenly spread. Raises `StageError` or `ArtifactError`."""
        answers = self.answers(task)
        own = self._golden_lines.get(task, [])
        # As `golden_lines` chose them: every so many rows.
        numbers = range(0, len(answers), -(-len(answers) // max(1, len(own))) or 1)
        rows = [
            GoldenRow(number, Row(line["fields"]), answers[number], line.get("device"))
            for number, line in zip(numbers, own, strict=False)
        ]
        answered = [line.get("label", line.get("text")) for line in own]
        if not rows or answered != [each.answer.prediction for each in rows]:
            raise ArtifactError(
                f"{self.uri}/{_GOLDEN} does not fit the answers to the test rows of task {task!r}; delete the folder "
                "to have it made again"
            )
        return rows[:: max(1, -(-len(rows) // most))]

    @cached_property
    def _golden_lines(self) -> dict[str, list[JsonObject]]:
        lines: dict[str, list[JsonObject]] = {}
        for line in map(json.loads, (self.folder / _GOLDEN).read_text("utf-8").splitlines()):
            lines.setdefault(line["task"], []).append(line)
        return lines

    def near_tie(self, task: str) -> float:
        """Nats below which another answer of the task is no fault."""
        model = next(served.model for served in self.bundle.tasks if served.name == task)
        dtype = next(each.dtype for each in self.bundle.models if each.name == model)
        return NEAR_TIES["bf16" if dtype == "bfloat16" else "fp32"]
