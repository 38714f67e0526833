"""One task's verdict from the answers of its mixture and of its baselines on the same test rows. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from multitask_api.stage_io.parameters import TaskDefinition
from multitask_api.stage_io.results import TaskVerdict
from multitask_trainer.data.rows import Row
from multitask_trainer.evaluation.answers import Answer
from multitask_trainer.evaluation.interval import baseline_margin_interval, bootstrap, ratio_interval
from multitask_trainer.evaluation.metrics import RowStatistics, score, statistics
from multitask_trainer.evaluation.overlap import Mask, is_notable
from multitask_trainer.evaluation.seed_variance import SeedVariance, moderated_seed_variance
from multitask_trainer.evaluation.verdict import Rule, TaskStatistics, decide_verdict


@dataclass(frozen=True)
class EvaluationInputs:
    """What a task's verdict is computed from.

    ``baselines`` has the answers of each seed; without seeds ``declared`` is the baseline's score. ``constant`` is the
    best constant answer by the train split. ``overlap``, (rows,), marks test rows that are in a train split.
    """

    task: TaskDefinition
    answers: Sequence[Answer]
    baselines: Sequence[Sequence[Answer]]
    declared: float | None
    constant: str
    overlap: Mask
    still_improving: bool = False


def evaluate_task(
    inputs: EvaluationInputs,
    *,
    other_seeds: Collection[Sequence[float]],
    threshold: float,
    rule: Rule,
    seed: int,
) -> TaskVerdict:
    """The verdict, with the figures it rests on.

    ``other_seeds`` are the scores of the seeds of every other task's baseline; they help to tell how much this one's
    vary. ``seed`` is the bootstrap's.
    """
    task = inputs.task
    predictions = [answer.prediction for answer in inputs.answers]
    mixture_score = _score(task, predictions, inputs)
    baselines = _baseline_scores(inputs)
    seeds = moderated_seed_variance(baselines if inputs.baselines else (), other_seeds)
    task_statistics = _task_statistics(inputs, mixture_score, baselines, seeds, seed)
    decision = decide_verdict(task_statistics, threshold=threshold, rule=rule)
    return TaskVerdict(
        task=task.name,
        score=mixture_score,
        baseline=task_statistics.baseline,
        baseline_scores=tuple(baselines) if inputs.baselines else (),
        ratio=task_statistics.ratio,
        interval=(task_statistics.interval.low, task_statistics.interval.high) if task_statistics.interval else None,
        floor=task_statistics.constant_baseline,
        verdict=decision.verdict,
        confirmed=decision.confirmed,
        reason=decision.reason,
        seed_deviation=math.sqrt(seeds.variance) if seeds.degrees_of_freedom else None,
        degrees_of_freedom=seeds.degrees_of_freedom,
        test_rows=len(inputs.answers),
        overlap_rows=int(inputs.overlap.sum()),
        ratio_without_overlap=_ratio_without_overlap(inputs) if is_notable(inputs.overlap) else None,
    )


def constant_answer(task: TaskDefinition, label_counts: Mapping[str, int], train: Sequence[Row]) -> str:
    """The majority label of the train split, or its most frequent target; of equals the first."""
    if task.type == "Classification":
        return max(task.labels, key=lambda label: label_counts.get(label, 0))
    return Counter(row.answer for row in train).most_common(1)[0][0]


def _task_statistics(
    inputs: EvaluationInputs, mixture_score: float, baselines: Sequence[float], seeds: SeedVariance, seed: int
) -> TaskStatistics:
    task, rows = inputs.task, len(inputs.answers)
    constant = [inputs.constant] * rows
    constant_score = _score(task, constant, inputs)
    if not baselines:
        return TaskStatistics(score=mixture_score, baseline=None, constant_baseline=constant_score)
    mean = float(np.mean(baselines))
    declared = not inputs.baselines
    sources = [[answer.prediction for answer in inputs.answers], constant]
    sources += [[answer.prediction for answer in answers] for answers in inputs.baselines]
    replicates = bootstrap([_statistics(task, source, inputs) for source in sources], seed=seed)
    base = np.full((1, replicates.shape[1]), mean) if declared else replicates[2:]
    positive = mixture_score > 0 and mean > 0
    return TaskStatistics(
        score=mixture_score,
        baseline=mean,
        ratio=mixture_score / mean if mean > 0 else None,
        interval=ratio_interval(
            mixture_score, baselines, replicates[0], base, seeds=seeds, rows=rows, declared=declared
        )
        if positive
        else None,
        constant_baseline=constant_score,
        baseline_margin=baseline_margin_interval(
            baselines, constant_score, base, replicates[1], seeds=seeds, declared=declared
        ),
        seeds=len(inputs.baselines),
        degrees_of_freedom=seeds.degrees_of_freedom,
        still_improving=inputs.still_improving,
    )


def _baseline_scores(inputs: EvaluationInputs) -> list[float]:
    """Each seed's score on the test rows; the declared one without seeds; nothing without either."""
    if inputs.baselines:
        return [_score(inputs.task, [a.prediction for a in answers], inputs) for answers in inputs.baselines]
    return [inputs.declared] if inputs.declared is not None else []


def _ratio_without_overlap(inputs: EvaluationInputs) -> float | None:
    kept = [int(row) for row in np.flatnonzero(~inputs.overlap)]
    seeds = [_score_of_rows(inputs, [answers[row].prediction for row in kept], kept) for answers in inputs.baselines]
    mixture_score = _score_of_rows(inputs, [inputs.answers[row].prediction for row in kept], kept)
    baseline = float(np.mean(seeds)) if seeds else inputs.declared
    return mixture_score / baseline if baseline is not None and baseline > 0 else None


def _score_of_rows(inputs: EvaluationInputs, predictions: Sequence[str], rows: Sequence[int]) -> float:
    task = inputs.task
    return score(task.metric, predictions, [inputs.answers[row].gold for row in rows], task.labels, task.language)


def _score(task: TaskDefinition, predictions: Sequence[str], inputs: EvaluationInputs) -> float:
    return score(task.metric, predictions, [answer.gold for answer in inputs.answers], task.labels, task.language)


def _statistics(task: TaskDefinition, predictions: Sequence[str], inputs: EvaluationInputs) -> RowStatistics:
    gold = [answer.gold for answer in inputs.answers]
    return statistics(task.metric, predictions, gold, task.labels, task.language)
