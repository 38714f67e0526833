"""Answers a split's rows with the engine that serves, and scores the answers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from multitask_api.stage_io.parameters import TaskDefinition
from multitask_serving.engine.engine import Engine
from multitask_serving.engine.generation.decoding import Step
from multitask_serving.engine.types import Request
from multitask_trainer.data.rows import Row
from multitask_trainer.evaluation.answers import Answer, read_scores, write_scores
from multitask_trainer.evaluation.metrics import row_scores, score
from multitask_trainer.runtime.progress import ProgressReporter

__all__ = ["Answer", "answer_rows", "read_scores", "score_answers", "truncated_rows", "write_scores"]


def answer_rows(
    engine: Engine, task: TaskDefinition, rows: Sequence[Row], reporter: ProgressReporter | None = None
) -> list[Answer]:
    """The engine's answer to every row, in the rows' order; texts are decoded greedily.

    ``reporter`` is told after every pass of the model how many rows are answered.
    """
    requests = [Request(task.name, row.fields) for row in rows]
    answered = 0

    def report(more: int) -> None:
        nonlocal answered
        answered += more
        if reporter is not None:
            reporter.report(f"answering {task.name}", step=answered, total=len(rows))

    report(0)
    if task.type == "Classification":
        classified = engine.classify(requests, on_batch=report)
        drafts = [Answer(item.label, 0.0, item.margin, gold(row)) for item, row in zip(classified, rows, strict=True)]
    else:
        steps: list[list[Step]] = [[] for _ in rows]
        for step in engine.generate(requests):
            steps[step.row].append(step)
            report(int(step.finished))  # a step without an end is a sign of life too
        drafts = [_text_answer(own, row) for own, row in zip(steps, rows, strict=True)]
    scores = row_scores(
        task.metric,
        [draft.prediction for draft in drafts],
        [draft.gold for draft in drafts],
        task.labels,
        task.language,
    )
    return [
        Answer(draft.prediction, float(own), draft.margin, draft.gold, draft.margins, draft.ends)
        for draft, own in zip(drafts, scores, strict=True)
    ]


def truncated_rows(engine: Engine, task: TaskDefinition, rows: Sequence[Row]) -> int:
    """How many rows lose text to make their prompt fit."""
    return sum(engine.truncated([Request(task.name, row.fields) for row in rows]))


def score_answers(task: TaskDefinition, answers: Sequence[Answer]) -> float:
    """The task's metric over all answers."""
    predictions, references = [answer.prediction for answer in answers], [answer.gold for answer in answers]
    return score(task.metric, predictions, references, task.labels, task.language)


def gold(row: Row) -> tuple[str, ...]:
    """What counts as right: the label, or the references."""
    return row.targets if row.label is None else (row.label,)


def _text_answer(steps: Sequence[Step], row: Row) -> Answer:
    margins = tuple(step.margin for step in steps)
    ends = tuple(accumulate(len(step.text_delta) for step in steps))
    text = "".join(step.text_delta for step in steps)
    return Answer(text, 0.0, min(margins), gold(row), margins, ends)
