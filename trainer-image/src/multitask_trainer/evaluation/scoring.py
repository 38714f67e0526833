"""Answers a split's rows with the engine that serves, and scores the answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from multitask_api.stage_io.parameters import TaskDefinition
from multitask_serving.engine.engine import Engine
from multitask_serving.engine.generation.decoding import Step
from multitask_serving.engine.types import PromptLength, Request
from multitask_trainer.data.rows import Row
from multitask_trainer.evaluation.answers import Answer, read_scores, write_scores
from multitask_trainer.evaluation.metrics import row_scores, score
from multitask_trainer.runtime.balance import balanced_shares
from multitask_trainer.runtime.collectives import gather_results
from multitask_trainer.runtime.progress import ProgressReporter

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["Answer", "answer_rows", "answer_tasks", "read_scores", "score_answers", "write_scores"]

_DECODING_COST = 10
"""A token of an answer, which takes a pass of its own, against one of a prompt; the order of magnitude."""


@dataclass(frozen=True)
class TaskAnswers:
    """The answers to a task's rows, in their order."""

    answers: list[Answer]
    truncated: int
    """Rows that lose text to make their prompt fit."""


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


def answer_tasks(
    engine: Engine,
    tasks: Sequence[tuple[TaskDefinition, Sequence[Row]]],
    reporter: ProgressReporter,
    accelerator: Accelerator | None = None,
) -> dict[str, TaskAnswers]:
    """The answers to the rows of several tasks, shared by the processes of ``accelerator`` (None: one process).

    All processes call this with the same tasks and rows, and all get all answers. They share the batches that one
    process forms, so the answers are its answers, to the last bit where the processes compute alike. An error in one
    process ends all (`gather_results`).
    """
    lengths = _prompt_lengths(engine, tasks, accelerator)
    own = _own_rows(engine, tasks, lengths, accelerator)

    def answer_share() -> dict[str, dict[int, Answer]]:
        return {
            task.name: dict(
                zip(
                    own[task.name],
                    answer_rows(engine, task, [rows[number] for number in own[task.name]], reporter),
                    strict=True,
                )
            )
            for task, rows in tasks
            if task.name in own
        }

    shares = gather_results(answer_share, accelerator)
    answered = {}
    for (task, rows), of_task in zip(tasks, lengths, strict=True):
        by_row = {number: answer for share in shares for number, answer in share.get(task.name, {}).items()}
        answers = [by_row[number] for number in range(len(rows))]
        answered[task.name] = TaskAnswers(answers, sum(length.truncated for length in of_task))
    return answered


def _own_rows(
    engine: Engine,
    tasks: Sequence[tuple[TaskDefinition, Sequence[Row]]],
    lengths: Sequence[Sequence[PromptLength]],
    accelerator: Accelerator | None,
) -> dict[str, list[int]]:
    """Task → the numbers of the rows that this process answers, ascending: its share of the batches of all tasks."""
    process, processes = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    batches: list[tuple[str, list[int]]] = []
    costs = []
    for (task, _), of_task in zip(tasks, lengths, strict=True):
        tokens = [length.tokens for length in of_task]
        answer = _DECODING_COST * task.generation.max_new_tokens if task.generation else 0
        for batch in engine.batches(task.name, tokens):
            batches.append((task.name, batch))
            costs.append(len(batch) * (max(tokens[number] for number in batch) + answer))
    own: dict[str, list[int]] = {}
    for number in balanced_shares(costs, processes)[process]:
        name, batch = batches[number]
        own[name] = sorted([*own.get(name, []), *batch])
    return own


def _prompt_lengths(
    engine: Engine, tasks: Sequence[tuple[TaskDefinition, Sequence[Row]]], accelerator: Accelerator | None
) -> list[list[PromptLength]]:
    """Of each task's rows. To encode texts takes as long as to answer them, so the processes share it too."""
    process, processes = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    requests = [Request(task.name, row.fields) for task, rows in tasks for row in rows]
    shares = gather_results(lambda: engine.prompt_lengths(requests[process::processes]), accelerator)
    lengths = [PromptLength(0, truncated=False)] * len(requests)
    for number, share in enumerate(shares):
        lengths[number::processes] = share
    ends = list(accumulate(len(rows) for _, rows in tasks))
    return [lengths[end - len(rows) : end] for end, (_, rows) in zip(ends, tasks, strict=True)]


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
