"""One task's verdict from the answers of its mixture and of its baselines on the same test rows. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from multitask_api.stage_io.parameters import TaskDefinition
from multitask_api.stage_io.results import TaskVerdict
from multitask_trainer.data.rows import Row
from multitask_trainer.evaluation.answers import Answer
from multitask_trainer.evaluation.interval import (
    advantage_interval,
    baseline_margin_interval,
    bootstrap,
    ratio_interval,
)
from multitask_trainer.evaluation.metrics import RowStatistics, score, statistics
from multitask_trainer.evaluation.overlap import Mask, Overlap
from multitask_trainer.evaluation.seed_variance import moderated_seed_variance
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

    def without_overlap(self) -> EvaluationInputs:
        """The same of the rows that are in no train split."""
        kept = [int(row) for row in np.flatnonzero(~self.overlap)]
        return replace(
            self,
            answers=[self.answers[row] for row in kept],
            baselines=[[answers[row] for row in kept] for answers in self.baselines],
            overlap=self.overlap[kept],
        )


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
    vary. ``seed`` is the bootstrap's. The verdict is taken without the test rows that are in a train split, where
    enough others are left; score, baseline, ratio and interval are of all rows in any case.
    """
    overlap = Overlap.of(inputs.overlap)
    whole = _task_statistics(inputs, other_seeds, seed)
    clean = inputs.without_overlap() if overlap.is_notable and overlap.kept_rows else None
    judged = _task_statistics(clean, other_seeds, seed) if clean is not None and overlap.is_left_out else whole
    is_left_out = judged is not whole
    ratio_without = judged.ratio if is_left_out else _ratio(clean) if clean is not None else None
    decision = decide_verdict(judged, threshold=threshold, rule=rule, overlap=overlap)
    return TaskVerdict(
        task=inputs.task.name,
        score=whole.score,
        baseline=whole.baseline,
        baseline_scores=whole.seed_scores,
        ratio=whole.ratio,
        interval=whole.interval.ends if whole.interval else None,
        floor=whole.constant_baseline,
        verdict=decision.verdict,
        confirmed=decision.confirmed,
        reason=decision.reason,
        cause=decision.cause,
        advantage=judged.advantage.ends if judged.advantage else None,
        seed_deviation=math.sqrt(judged.seed_variance.variance) if judged.seed_variance.degrees_of_freedom else None,
        degrees_of_freedom=judged.seed_variance.degrees_of_freedom,
        test_rows=len(inputs.answers),
        overlap_rows=overlap.rows,
        ratio_without_overlap=ratio_without,
        interval_without_overlap=judged.interval.ends if is_left_out and judged.interval else None,
        judged_without_overlap=is_left_out,
    )


def constant_answer(task: TaskDefinition, label_counts: Mapping[str, int], train: Sequence[Row]) -> str:
    """The majority label of the train split, or its most frequent target; of equals the first."""
    if task.type == "Classification":
        return max(task.labels, key=lambda label: label_counts.get(label, 0))
    return Counter(row.answer for row in train).most_common(1)[0][0]


def _task_statistics(inputs: EvaluationInputs, other_seeds: Collection[Sequence[float]], seed: int) -> TaskStatistics:
    rows, declared = len(inputs.answers), not inputs.baselines
    constant = [inputs.constant] * rows
    mixture_score, constant_score = _score(inputs, _predictions(inputs.answers)), _score(inputs, constant)
    baselines = _baseline_scores(inputs)
    variance = moderated_seed_variance(() if declared else baselines, other_seeds)
    if not baselines:
        return TaskStatistics(
            score=mixture_score, baseline=None, constant_baseline=constant_score, seed_variance=variance
        )
    mean = float(np.mean(baselines))
    sources = [_predictions(inputs.answers), constant, *(_predictions(answers) for answers in inputs.baselines)]
    replicates = bootstrap([_statistics(inputs, source) for source in sources], seed=seed)
    base = np.full((1, replicates.shape[1]), mean) if declared else replicates[2:]
    return TaskStatistics(
        score=mixture_score,
        baseline=mean,
        ratio=mixture_score / mean if mean > 0 else None,
        interval=ratio_interval(
            mixture_score, baselines, replicates[0], base, seeds=variance, rows=rows, declared=declared
        )
        if mixture_score > 0 and mean > 0
        else None,
        constant_baseline=constant_score,
        baseline_margin=baseline_margin_interval(
            baselines, constant_score, base, replicates[1], seeds=variance, declared=declared
        ),
        advantage=advantage_interval(
            mixture_score, replicates[0], [*baselines, constant_score], [*base, replicates[1]]
        ),
        seed_scores=() if declared else tuple(baselines),
        seed_variance=variance,
        still_improving=inputs.still_improving,
    )


def _baseline_scores(inputs: EvaluationInputs) -> list[float]:
    """Each seed's score on the test rows; the declared one without seeds; nothing without either."""
    if inputs.baselines:
        return [_score(inputs, _predictions(answers)) for answers in inputs.baselines]
    return [inputs.declared] if inputs.declared is not None else []


def _ratio(inputs: EvaluationInputs) -> float | None:
    baselines = _baseline_scores(inputs)
    baseline = float(np.mean(baselines)) if baselines else 0.0
    return _score(inputs, _predictions(inputs.answers)) / baseline if baseline > 0 else None


def _predictions(answers: Sequence[Answer]) -> list[str]:
    return [answer.prediction for answer in answers]


def _score(inputs: EvaluationInputs, predictions: Sequence[str]) -> float:
    task = inputs.task
    return score(task.metric, predictions, [answer.gold for answer in inputs.answers], task.labels, task.language)


def _statistics(inputs: EvaluationInputs, predictions: Sequence[str]) -> RowStatistics:
    task, gold = inputs.task, [answer.gold for answer in inputs.answers]
    return statistics(task.metric, predictions, gold, task.labels, task.language)
