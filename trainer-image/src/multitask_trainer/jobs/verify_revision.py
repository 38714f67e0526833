"""Compares what a new revision answers through the gateways with its evaluation, and with the revision served now.

The records are in `multitask_api.serving_io.verify`; the pod is run by ``pod.unit``.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

from multitask_api.cluster import CONFIGMAP_POD_SHARE
from multitask_api.errors import MultitaskError
from multitask_api.resource.tasks import Metric
from multitask_api.serving_io.verify import (
    MAX_EXAMPLES,
    MAX_SCORE_LOSS,
    VERIFIED_KEY,
    OtherDevice,
    RevisionReport,
    TaskFlips,
    VerifiedTask,
    VerifyOrder,
)
from multitask_api.stage_io.results import VerifyResult
from multitask_client import AsyncTaskClient, Prediction, Tls
from multitask_trainer.data.locations import DataLocations
from multitask_trainer.errors import ServingError, StageError
from multitask_trainer.evaluation.agreement import Difference, agreement, differences, total_agreement
from multitask_trainer.evaluation.answers import Answer
from multitask_trainer.evaluation.flips import Basis, RowAnswers, task_flips
from multitask_trainer.evaluation.gateway_client import predict_rows
from multitask_trainer.evaluation.metrics import row_scores
from multitask_trainer.export.exported import ExportedResult, GoldenRow
from multitask_trainer.runtime.progress import ProgressReporter

_TEXT = 200
"""Characters of an answer in an example."""
_LIMIT = CONFIGMAP_POD_SHARE - 16 * 1024
"""Bytes of a report; the rest is for progress and failures."""


def report(order: VerifyOrder, progress: ProgressReporter) -> dict[str, object]:
    """The report as a merge-patch of the pod's ConfigMap. Raises `MultitaskError` if there can be none."""
    with TemporaryDirectory() as scratch:
        found = asyncio.run(verify_revision(order, progress, Path(scratch)))
    return {"data": {VERIFIED_KEY: _within_limit(found)}}


async def verify_revision(order: VerifyOrder, progress: ProgressReporter, scratch: Path) -> RevisionReport:
    """Send the golden requests of every task, pinned to the new revision, and compare.

    Raises `ServingError` if the gateway does not answer for it, and `StageError` or `ArtifactError` if its result is
    not in storage. That the previous one cannot be compared is part of the report.
    """
    storage = _storage(order.storage)
    exported = ExportedResult.read(f"{storage}/{order.artifact}", scratch / "new")
    golden = {task.name: exported.golden(task.name, order.rows) for task in order.tasks}
    token = None if order.token_file is None else _read_token(Path(order.token_file))
    tls = False if order.ca_file is None else Tls(ca=order.ca_file)
    async with AsyncTaskClient(order.gateway, api_key=token, tls=tls) as client:
        served: dict[str, list[Prediction]] = {}
        for number, (task, rows) in enumerate(golden.items()):
            progress.report(f"asking {task}", step=number, total=len(golden))
            served[task] = await _ask(client, order, task, rows, order.revision)
        found = _compare(order, exported, golden, served)
        if order.previous is None:
            return found
        progress.report(f"comparing with revision {order.previous.revision}")
        return await _with_flips(found, order, _Comparison(client, exported, golden), storage, scratch / "previous")


def _storage(uri: str) -> str:
    path = DataLocations.of(".", os.environ).local_path(uri) if uri.startswith("pvc://") else None
    return (uri if path is None else str(path)).rstrip("/")


def _read_token(file: Path) -> str:
    try:
        return file.read_text("ascii").strip()
    except OSError as error:
        raise StageError(f"{file} cannot be read ({error.strerror}): the pod has no token for the gateway") from error


async def _ask(
    client: AsyncTaskClient, order: VerifyOrder, task: str, rows: Sequence[GoldenRow], revision: str
) -> list[Prediction]:
    """The answers of one revision. Raises `ServingError`."""
    predictions = await predict_rows(client, f"{order.model}/{task}", [each.row for each in rows], revision=revision)
    others = {prediction.revision for prediction in predictions} - {revision}
    if others:
        raise ServingError(f"{task}: asked for revision {revision}, and revision {min(others)} has answered")
    return predictions


def _compare(
    order: VerifyOrder,
    exported: ExportedResult,
    golden: Mapping[str, Sequence[GoldenRow]],
    served: Mapping[str, Sequence[Prediction]],
) -> RevisionReport:
    """The answers against those of the revision's own evaluation."""
    differing: dict[str, list[Difference]] = {}
    elsewhere, lost = dict[str, int](), dict[str, float]()
    for task in order.tasks:
        rows, answers = golden[task.name], served[task.name]
        found = differences(
            [each.answer for each in rows], [each.answer for each in answers], exported.near_tie(task.name)
        )
        others = [each for each in found if not each.near_tie and _is_elsewhere(rows[each.row], answers[each.row])]
        if others:
            elsewhere[task.name] = len(others)
            loss = _score_loss(task, rows, answers)
            if loss > MAX_SCORE_LOSS:
                lost[task.name] = loss
        differing[task.name] = found
    tasks = {}
    for task in order.tasks:
        counts = agreement(len(golden[task.name]), differing[task.name])
        allowed = 0 if task.name in lost else elsewhere.get(task.name, 0)
        tasks[task.name] = counts.model_copy(update={"different": counts.different - allowed})
    # Faults first: they are what a reader looks for.
    every = sorted(
        ((task, each) for task, found in differing.items() for each in found), key=lambda pair: pair[1].near_tie
    )
    examples = tuple(_example(task, golden[task][each.row].number, each) for task, each in every[:MAX_EXAMPLES])
    result = VerifyResult(**total_agreement(tasks.values()).model_dump(), tasks=tasks, examples=examples)
    other_device = None
    if elsewhere:
        other_device = OtherDevice(
            served_on=tuple(sorted({each.device for task in elsewhere for each in served[task]})),
            measured_on=tuple(sorted({each.device for task in elsewhere for each in golden[task] if each.device})),
            tasks=elsewhere,
            lost=lost,
        )
    return RevisionReport(revision=order.revision, result=result, other_device=other_device)


def _is_elsewhere(row: GoldenRow, served: Prediction) -> bool:
    """Whether the two answers are known to be of different kinds of devices."""
    return bool(served.device) and row.device is not None and served.device != row.device


def _score_loss(task: VerifiedTask, rows: Sequence[GoldenRow], served: Sequence[Prediction]) -> float:
    """By how much the mean score of the golden requests fell from the evaluation to what is served."""
    metric, gold = cast(Metric, task.metric), [each.answer.gold for each in rows]
    before, after = (
        row_scores(metric, answers, gold, (), task.language)
        for answers in ([each.answer.prediction for each in rows], [each.answer for each in served])
    )
    return round(float(before.mean() - after.mean()), 6)


def _example(task: str, row: int, difference: Difference) -> dict[str, str]:
    return {
        "task": task,
        "row": str(row),
        "evaluated": difference.evaluated[:_TEXT],
        "served": difference.served[:_TEXT],
        "margin": f"{difference.margin:.3g}",
    }


class _Comparison:
    """The answers of the new revision beside those of the previous one."""

    def __init__(
        self, client: AsyncTaskClient, exported: ExportedResult, golden: Mapping[str, Sequence[GoldenRow]]
    ) -> None:
        self._client = client
        self._exported = exported
        self._golden = golden

    async def flips(
        self, order: VerifyOrder, task: VerifiedTask, previous: ExportedResult | None, revision: str
    ) -> TaskFlips:
        """How the answers to one task change. Raises `MultitaskError` if that cannot be found out."""
        if not task.same_contract:
            raise StageError("its type, labels or fields are not those of the previous revision")
        if task.same_rows and previous is not None:
            after, before = self._exported.answers(task.name), previous.answers(task.name)
            if len(after) == len(before):
                numbered = list(enumerate(after))
                return self._count(task, numbered, [answer.prediction for answer in before], "TestRows")
        rows = self._golden[task.name]
        answered = await _ask(self._client, order, task.name, rows, revision)
        before_answers = [each.answer for each in answered]
        return self._count(task, [(each.number, each.answer) for each in rows], before_answers, "GoldenRows")

    def _count(
        self, task: VerifiedTask, after: Sequence[tuple[int, Answer]], before: Sequence[str], basis: Basis
    ) -> TaskFlips:
        metric, gold = cast(Metric, task.metric), [answer.gold for _, answer in after]
        new = [answer.prediction for _, answer in after]
        scores = zip(*(row_scores(metric, each, gold, (), task.language) for each in (before, new)), strict=True)
        rows = [
            RowAnswers(number, old, answer.prediction, float(score_before), float(score_after), answer.margin)
            for (number, answer), old, (score_before, score_after) in zip(after, before, scores, strict=True)
        ]
        served = next(each for each in self._exported.bundle.tasks if each.name == task.name)
        return task_flips(rows, basis, name_answers=served.type == "Classification")


async def _with_flips(
    found: RevisionReport, order: VerifyOrder, comparison: _Comparison, storage: str, scratch: Path
) -> RevisionReport:
    """The report with the changes from the previous revision, and why there are none of some tasks."""
    assert order.previous is not None
    previous = None
    missing = ""
    try:
        previous = ExportedResult.read(f"{storage}/{order.previous.artifact}", scratch)
    except (MultitaskError, OSError) as error:
        missing = str(error)
    flips: dict[str, TaskFlips] = {}
    left_out: dict[str, str] = {}
    for task in order.tasks:
        try:
            flips[task.name] = await comparison.flips(order, task, previous, order.previous.revision)
        except MultitaskError as error:
            left_out[task.name] = (f"{missing}; " if missing and task.same_rows else "") + str(error)
    changes = {"previous": order.previous.revision, "flips": flips, "not_compared": left_out}
    return found.model_copy(update=changes)


def _within_limit(found: RevisionReport) -> str:
    """The report as JSON, with fewer examples where it would not fit into a ConfigMap."""
    for examples in (MAX_EXAMPLES, 3, 1, 0):
        flips = {
            task: each.model_copy(update={"nearest": each.nearest[:examples]}) for task, each in found.flips.items()
        }
        text = found.model_copy(update={"flips": flips}).model_dump_json(by_alias=True, exclude_none=True)
        if len(text.encode()) <= _LIMIT:
            break
    return text
