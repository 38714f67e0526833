"""The metrics, each in two forms: the library's own figure, and sums over rows from which it can be computed again.

Every metric is a function of sums over rows (counts of right answers, of labels, of n-grams). A bootstrap replicate is
a weighting of the rows, so 2,000 replicates are one matrix product: (replicates, rows) @ (rows, sums).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from multitask_api.resource.tasks import Metric
from multitask_trainer.evaluation.text_metrics import bleu_tokenizer, exact_match, normal_form, rouge_l, token_f1

Floats = npt.NDArray[np.float64]
References = Sequence[Sequence[str]]


@dataclass(frozen=True)
class RowStatistics:
    """``values`` is (rows, sums); ``finish`` turns (weightings, sums) totals into (weightings,) scores."""

    values: Floats
    finish: Callable[[Floats], Floats]

    def score(self) -> float:
        """The metric with every row counted once."""
        return float(self.finish(self.values.sum(axis=0, keepdims=True))[0])


def score(
    metric: Metric, predictions: Sequence[str], references: References, labels: Sequence[str] = (), language: str = "en"
) -> float:
    """The metric over all rows, in [0, 1] (MatthewsCorrelation in [-1, 1]); 0.0 without rows.

    ``references`` has a list a row; classification uses the first, generation the best. By scikit-learn, rouge-score
    and sacrebleu.
    """
    if not predictions:
        return 0.0
    if metric in ("MacroF1", "MatthewsCorrelation"):
        return _label_score(metric, predictions, [row[0] for row in references])
    return statistics(metric, predictions, references, labels, language).score()


def row_scores(
    metric: Metric, predictions: Sequence[str], references: References, labels: Sequence[str] = (), language: str = "en"
) -> Floats:
    """(rows,) scores of single rows: right or wrong for labels, the row's own figure for texts (sentence BLEU).

    Their mean is the metric only for Accuracy, ExactMatch, TokenF1 and RougeL.
    """
    pairs = list(zip(predictions, references, strict=True))
    if metric in ("Accuracy", "MacroF1", "MatthewsCorrelation"):
        scores = [float(prediction == texts[0]) for prediction, texts in pairs]
    elif metric == "ExactMatch":
        scores = [exact_match(prediction, texts) for prediction, texts in pairs]
    elif metric == "TokenF1":
        scores = [token_f1(prediction, texts, language) for prediction, texts in pairs]
    elif metric == "RougeL":
        scores = rouge_l(predictions, references, language)
    else:
        return _bleu(_ngram_counts(predictions, references, language))
    return np.asarray(scores, dtype=np.float64)


def statistics(
    metric: Metric, predictions: Sequence[str], references: References, labels: Sequence[str] = (), language: str = "en"
) -> RowStatistics:
    """The sums over rows from which the metric follows, for the bootstrap."""
    if metric in ("MacroF1", "MatthewsCorrelation"):
        values = _label_counts(predictions, [row[0] for row in references], labels)
        return RowStatistics(values, _macro_f1 if metric == "MacroF1" else _matthews)
    if metric == "Bleu":
        return RowStatistics(_ngram_counts(predictions, references, language), _bleu)
    rows = row_scores(metric, predictions, references, labels, language)
    return RowStatistics(np.stack([rows, np.ones_like(rows)], axis=1), _mean)


def _mean(totals: Floats) -> Floats:
    return np.asarray(totals[:, 0] / np.maximum(totals[:, 1], 1.0))


# -- labels ------------------------------------------------------------------------------------------------------------


def _label_score(metric: Metric, predictions: Sequence[str], gold: Sequence[str]) -> float:
    """MacroF1 is over the labels that occur in ``gold`` or in ``predictions``; the rows have no others."""
    from sklearn.metrics import f1_score, matthews_corrcoef

    if metric == "MacroF1":
        return float(f1_score(gold, predictions, average="macro", zero_division=0.0))
    return float(matthews_corrcoef(gold, predictions))


def _label_counts(predictions: Sequence[str], gold: Sequence[str], labels: Sequence[str]) -> Floats:
    """(rows, 3·n): per label right, predicted, gold."""
    names = list(dict.fromkeys([*labels, *gold, *predictions]))
    index = {name: position for position, name in enumerate(names)}
    rows = np.arange(len(gold))
    predicted = np.asarray([index[name] for name in predictions])
    expected = np.asarray([index[name] for name in gold])
    values = np.zeros((len(gold), 3, len(names)))
    values[rows, 0, expected] = predicted == expected
    values[rows, 1, predicted] = 1.0
    values[rows, 2, expected] = 1.0
    return values.reshape(len(gold), -1)


def _macro_f1(totals: Floats) -> Floats:
    """The mean of 2·right / (predicted + gold) over the labels that are in either; a weighting may leave labels out."""
    right, predicted, gold = totals.reshape(len(totals), 3, -1).swapaxes(0, 1)
    occurs = predicted + gold
    return np.asarray((2 * right / np.maximum(occurs, 1.0)).sum(axis=1) / np.maximum((occurs > 0).sum(axis=1), 1))


def _matthews(totals: Floats) -> Floats:
    """The correlation of Gorodkin (2004): (c·s - Σ p_k t_k) / √((s² - Σ p_k²)(s² - Σ t_k²)); 0 where undefined."""
    right, predicted, gold = totals.reshape(len(totals), 3, -1).swapaxes(0, 1)
    rows = gold.sum(axis=1)
    above = right.sum(axis=1) * rows - (predicted * gold).sum(axis=1)
    below = (rows**2 - (predicted**2).sum(axis=1)) * (rows**2 - (gold**2).sum(axis=1))
    return np.where(below > 0, above / np.sqrt(np.maximum(below, 1.0)), 0.0)


# -- BLEU --------------------------------------------------------------------------------------------------------------


def _ngram_counts(predictions: Sequence[str], references: References, language: str) -> Floats:
    """(rows, 10): length, reference length, then of orders 1–4 the n-grams in common and the n-grams, by sacrebleu."""
    from sacrebleu.metrics.bleu import BLEU

    metric = BLEU(tokenize=bleu_tokenizer(language), effective_order=True)
    rows = []
    for prediction, texts in zip(predictions, references, strict=True):
        counts = metric.sentence_score(normal_form(prediction), [normal_form(text) for text in texts])
        rows.append([counts.sys_len, counts.ref_len, *counts.counts, *counts.totals])
    return np.asarray(rows, dtype=np.float64).reshape(-1, 10)


def _bleu(totals: Floats) -> Floats:
    """Corpus BLEU in [0, 1] with sacrebleu's default smoothing ("exp"): the k-th order without a match counts 2^-k."""
    length, reference = totals[:, 0], totals[:, 1]
    common, grams = totals[:, 2:6], totals[:, 6:10]
    halvings = np.cumsum(common == 0, axis=1)
    smoothed = np.where(common > 0, common, 0.5**halvings) / np.maximum(grams, 1.0)
    defined = (grams > 0).all(axis=1) & (common > 0).any(axis=1)
    brevity = np.minimum(0.0, 1.0 - reference / np.maximum(length, 1.0))
    return np.where(defined, np.exp(brevity + np.log(smoothed).mean(axis=1)), 0.0)
