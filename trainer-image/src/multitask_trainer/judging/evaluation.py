"""One task's verdict from the answers of its mixture and of its baselines on the same test rows. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from multitask_api.stage_io.parameters import TaskDefinition
from multitask_api.stage_io.results import TaskVerdict
from multitask_trainer.data.rows import Row
from multitask_trainer.judging.answers import Answer
from multitask_trainer.judging.interval import SeedVariance, bootstrap, lead_interval, ratio_interval
from multitask_trainer.judging.metrics import RowStatistics, score, statistics
from multitask_trainer.judging.overlap import Mask, worth_telling
from multitask_trainer.judging.verdict import Evidence, Rule, judge


@dataclass(frozen=True)
class Material:
    """All that a task is judged by. ``baselines`` has the answers of each seed; ``declared`` stands in for them.

    ``constant`` is the best constant answer by the train split; ``overlap`` marks test rows that are in a train split.
    Its shape is (rows,).
    """

    task: TaskDefinition
    answers: Sequence[Answer]
    baselines: Sequence[Sequence[Answer]]
    declared: float | None
    constant: str
    overlap: Mask
    still_improving: bool = False


def judge_task(material: Material, *, seeds: SeedVariance, threshold: float, rule: Rule, seed: int) -> TaskVerdict:
    """The verdict, with the figures it rests on. ``seed`` is of the bootstrap."""
    task = material.task
    predictions = [answer.prediction for answer in material.answers]
    found = _score(task, predictions, material)
    baselines = _baseline_scores(material)
    evidence = _evidence(material, found, baselines, seeds, seed)
    judgement = judge(evidence, threshold=threshold, rule=rule)
    return TaskVerdict(
        task=task.name,
        score=found,
        baseline=evidence.baseline,
        baseline_scores=tuple(baselines) if material.baselines else (),
        ratio=evidence.ratio,
        interval=(evidence.interval.low, evidence.interval.high) if evidence.interval else None,
        floor=evidence.floor,
        verdict=judgement.verdict,
        confirmed=judgement.confirmed,
        reason=judgement.reason,
        test_rows=len(material.answers),
        overlap_rows=int(material.overlap.sum()),
        ratio_without_overlap=_ratio_without_overlap(material) if worth_telling(material.overlap) else None,
    )


def constant_answer(task: TaskDefinition, label_counts: Mapping[str, int], train: Sequence[Row]) -> str:
    """The majority label of the train split, or its most frequent target; of equals the first."""
    if task.type == "Classification":
        return max(task.labels, key=lambda label: label_counts.get(label, 0))
    return Counter(row.answer for row in train).most_common(1)[0][0]


def _evidence(material: Material, found: float, baselines: Sequence[float], seeds: SeedVariance, seed: int) -> Evidence:
    task, rows = material.task, len(material.answers)
    constant = [material.constant] * rows
    floor = _score(task, constant, material)
    if not baselines:
        return Evidence(score=found, baseline=None, floor=floor)
    mean = float(np.mean(baselines))
    declared = not material.baselines
    sources = [[answer.prediction for answer in material.answers], constant]
    sources += [[answer.prediction for answer in answers] for answers in material.baselines]
    replicates = bootstrap([_statistics(task, source, material) for source in sources], seed=seed)
    base = np.full((1, replicates.shape[1]), mean) if declared else replicates[2:]
    positive = found > 0 and mean > 0
    return Evidence(
        score=found,
        baseline=mean,
        ratio=found / mean if mean > 0 else None,
        interval=ratio_interval(found, baselines, replicates[0], base, seeds=seeds, rows=rows, declared=declared)
        if positive
        else None,
        floor=floor,
        lead=lead_interval(baselines, floor, base, replicates[1], seeds=seeds, declared=declared),
        seeds=len(material.baselines),
        degrees_of_freedom=seeds.degrees_of_freedom,
        still_improving=material.still_improving,
    )


def _baseline_scores(material: Material) -> list[float]:
    """Each seed's score on the test rows; the declared one without seeds; nothing without either."""
    if material.baselines:
        return [_score(material.task, [a.prediction for a in answers], material) for answers in material.baselines]
    return [material.declared] if material.declared is not None else []


def _ratio_without_overlap(material: Material) -> float | None:
    kept = [int(row) for row in np.flatnonzero(~material.overlap)]
    seeds = [_subset(material, [answers[row].prediction for row in kept], kept) for answers in material.baselines]
    found = _subset(material, [material.answers[row].prediction for row in kept], kept)
    baseline = float(np.mean(seeds)) if seeds else material.declared
    return found / baseline if baseline is not None and baseline > 0 else None


def _subset(material: Material, predictions: Sequence[str], rows: Sequence[int]) -> float:
    task = material.task
    return score(task.metric, predictions, [material.answers[row].gold for row in rows], task.labels, task.language)


def _score(task: TaskDefinition, predictions: Sequence[str], material: Material) -> float:
    return score(task.metric, predictions, [answer.gold for answer in material.answers], task.labels, task.language)


def _statistics(task: TaskDefinition, predictions: Sequence[str], material: Material) -> RowStatistics:
    gold = [answer.gold for answer in material.answers]
    return statistics(task.metric, predictions, gold, task.labels, task.language)
