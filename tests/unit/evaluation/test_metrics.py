"""The metrics: against their libraries, and the sums over rows against the metrics."""

from __future__ import annotations

import re

import numpy as np
import pytest
from sacrebleu.metrics import BLEU
from sklearn.metrics import f1_score, matthews_corrcoef

from multitask_trainer.evaluation.metrics import row_scores, score, statistics
from multitask_trainer.evaluation.text_metrics import tokens

LABELS = ("a", "b", "c", "never")
TEXTS = ["refund the order", "please send the invoice again to me", "the order is late", "cancel it now please", "ok"]

SENTENCES = [
    # metric, language, prediction, references, score
    ("ExactMatch", "en", " refund   the order\n", ["refund the order"], 1.0),
    ("ExactMatch", "en", "Refund the order", ["refund the order"], 0.0),
    ("ExactMatch", "en", "two", ["one", "two"], 1.0),
    ("ExactMatch", "fr", "f\u00e2ch\u00e9", ["fa\u0302che\u0301"], 1.0),
    ("ExactMatch", "fr", "fache", ["fa\u0302che\u0301"], 0.0),
    ("ExactMatch", "ko", "\u1100\u1161\u11a8", ["\uac01"], 1.0),
    ("TokenF1", "en", "Refund, the order!", ["refund the order"], 1.0),
    ("TokenF1", "en", "the the order", ["the order"], 0.8),
    ("TokenF1", "en", "", ["the order"], 0.0),
    ("TokenF1", "en", "...", ["!"], 0.0),
    ("TokenF1", "en", "?", ["?"], 1.0),
    ("RougeL", "en", "?", ["?"], 1.0),
    ("TokenF1", "en", "Yes 👍🏽", ["yes 👍🏽"], 1.0),
    ("TokenF1", "en", "yes 👍🏽", ["yes 👍🏿"], 0.5),
    ("RougeL", "en", "👨‍👩‍👧", ["👨‍👩‍👧"], 1.0),
    ("RougeL", "en", "👨‍👩‍👧", ["👨‍👩‍👦"], 0.0),
    ("RougeL", "en", "🇩🇪", ["🇫🇷"], 0.0),
    ("RougeL", "en", "❤️", ["❤"], 1.0),
    ("TokenF1", "en", "x > y", ["x < y"], 2 / 3),
    ("TokenF1", "en", "C++", ["C#"], 0.5),
    ("TokenF1", "en", "-5", ["5"], 2 / 3),
    ("TokenF1", "en", "5€", ["5$"], 0.5),
    ("ExactMatch", "fr", "café", ["cafe\u0301"], 1.0),
    ("TokenF1", "fr", "CAFÉ", ["cafe\u0301"], 1.0),
    ("RougeL", "hi", "वह की", ["वह का"], 0.5),
    ("TokenF1", "hi", "काला", ["कीली"], 0.0),
    ("TokenF1", "bn", "কাল", ["কিলো"], 0.0),
    ("TokenF1", "ta", "தமிழ்", ["தமாழு"], 0.0),
    ("TokenF1", "he", "שָׁלוֹם", ["שְׁלִוּמ"], 0.0),
    ("TokenF1", "ar", "عَلِم", ["عُلِم"], 0.0),
    ("TokenF1", "th", "ที่", ["ทุ"], 0.0),
    ("TokenF1", "th", "สวัสดี", ["สวัสดี"], 1.0),
    ("RougeL", "th", "แมวนอน", ["แมวกิน"], 8 / 11),
    ("TokenF1", "km", "ខ្មែរ", ["ខ្មៃរ"], 0.5),
    ("TokenF1", "yue", "北京好", ["北京壞"], 2 / 3),
    ("TokenF1", "ko", "한국어", ["\u1112\u1161\u11ab국어"], 1.0),
    ("Bleu", "fr", "le café est très bon", ["le cafe\u0301 est très bon"], 1.0),
    ("Bleu", "th", "สวัสดีครับ", ["สวัสดีครับ"], 1.0),
    ("TokenF1", "zh", "退款订单", ["退货订单"], 0.75),
    ("TokenF1", "ja", "返金 する", ["返金する"], 1.0),
    ("RougeL", "en", "the Cat sat", ["the cat sat"], 1.0),
    ("RougeL", "en", "the cat sat", ["sat the cat"], 2 / 3),
    ("RougeL", "en", "one two", ["three", "one two"], 1.0),
    ("RougeL", "en", "", ["three"], 0.0),
    ("RougeL", "zh", "退款订单", ["退货订单"], 0.75),
    ("RougeL", "en", "noël привет", ["noël привет"], 1.0),
    ("Bleu", "en", "please send the invoice again", ["please send the invoice again"], 1.0),
    ("Bleu", "zh", "请尽快给我退款", ["请尽快给我退款"], 1.0),
    ("Bleu", "ja", "返金をおねがいします", ["返金をおねがいします"], 1.0),
    ("Bleu", "en", "", ["please send the invoice"], 0.0),
]


@pytest.mark.parametrize(("metric", "language", "prediction", "references", "expected"), SENTENCES)
def test_score_of_one_text(metric, language, prediction, references, expected):
    assert score(metric, [prediction], [references], language=language) == pytest.approx(expected)
    assert row_scores(metric, [prediction], [references], language=language)[0] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("zh", "订单 A1!", ["订", "单", "a", "1"]),
        ("ja", "カタカナ", ["カ", "タ", "カ", "ナ"]),
        ("en", "Order A1!", ["order", "a1"]),
        ("en", "订单 A1!", ["订", "单", "a1"]),
        ("th", "สวัสดี iPhone", ["ส", "วั", "ส", "ดี", "iphone"]),
        ("lo", "ລາວ", ["ລ", "າ", "ວ"]),
        ("my", "မြန်မာ", ["မြ", "န်", "မ", "ာ"]),
        ("en", "#️⃣ *️⃣ 1️⃣", ["#\u20e3", "*\u20e3", "1\u20e3"]),
        ("fa", "می‌خواهم", ["می‌خواهم"]),
        ("en", " ?! ", ["?", "!"]),
        ("en", "", []),
    ],
)
def test_tokens_of_a_text(language, text, expected):
    assert tokens(text, language) == expected


@pytest.mark.parametrize(
    "text",
    [
        "Don't panic: it's 3.14 o'clock; see the well-known §4…",
        "The quick_brown fox (2020-01-05) said “no” to 50% of a@b.com, #1 and/or 2!",
        "naïve café, Straße, привет, ½ x²",
        "pages 3-5; e.g. the x's — and so on.",
    ],
)
def test_prose_without_symbols_has_the_tokens_of_earlier_releases(text):
    """The word characters of Python's ``re``, by which all scores before were computed."""
    assert tokens(text, "en") == re.findall(r"\w+", text.casefold())


def _labels(seed: int, rows: int) -> tuple[list[str], list[str]]:
    random = np.random.default_rng(seed)
    gold = random.choice(["a", "b", "c"], rows, p=[0.6, 0.3, 0.1])
    right = random.random(rows) < 0.7
    return list(np.where(right, gold, random.choice(["a", "b", "c"], rows))), list(gold)


@pytest.mark.parametrize("seed", range(5))
def test_label_metrics_are_those_of_scikit_learn(seed):
    predictions, gold = _labels(seed, 60)
    references = [[label] for label in gold]
    macro = f1_score(gold, predictions, labels=None, average="macro", zero_division=0.0)
    matthews = matthews_corrcoef(gold, predictions)
    assert score("MacroF1", predictions, references, LABELS) == pytest.approx(macro)
    assert statistics("MacroF1", predictions, references, LABELS).score() == pytest.approx(macro)
    assert statistics("MatthewsCorrelation", predictions, references, LABELS).score() == pytest.approx(matthews)
    assert score("Accuracy", predictions, references, LABELS) == pytest.approx(np.mean(np.equal(predictions, gold)))


# gold, predictions, MacroF1
ABSENT = [
    ("a declared label that no row has is not judged", ["a", "b"], ["a", "b"], 1.0),
    ("a label that is only predicted counts, as 0", ["a", "a"], ["a", "b"], (2 / 3 + 0) / 2),
    ("a label that is never predicted counts, as 0", ["a", "b"], ["a", "a"], (2 / 3 + 0) / 2),
]


@pytest.mark.parametrize(("sentence", "gold", "predictions", "expected"), ABSENT, ids=[row[0] for row in ABSENT])
def test_macro_f1_is_over_the_labels_that_occur(sentence, gold, predictions, expected):
    references = [[label] for label in gold]
    assert score("MacroF1", predictions, references, LABELS) == pytest.approx(expected), sentence
    assert statistics("MacroF1", predictions, references, LABELS).score() == pytest.approx(expected), sentence


def test_matthews_of_two_labels_and_of_a_constant_answer():
    gold = ["no", "no", "yes", "yes"]
    references = [[label] for label in gold]
    assert statistics("MatthewsCorrelation", gold, references, ["no", "yes"]).score() == pytest.approx(1.0)
    assert statistics("MatthewsCorrelation", gold[::-1], references, ["no", "yes"]).score() == pytest.approx(-1.0)
    assert statistics("MatthewsCorrelation", ["no"] * 4, references, ["no", "yes"]).score() == 0.0


@pytest.mark.parametrize("seed", range(5))
def test_bleu_from_counts_is_the_corpus_bleu_of_sacrebleu(seed):
    random = np.random.default_rng(seed)
    references = [[TEXTS[i], TEXTS[j]] for i, j in random.integers(0, 5, (12, 2))]
    predictions = [" ".join(random.permutation(TEXTS[i].split())[:4]) for i in random.integers(0, 5, 12)]
    wanted = BLEU().corpus_score(predictions, [list(column) for column in zip(*references, strict=True)])
    assert score("Bleu", predictions, references) == pytest.approx(wanted.score / 100)


@pytest.mark.parametrize("metric", ["Accuracy", "MacroF1", "MatthewsCorrelation", "Bleu", "TokenF1"])
def test_weighted_sums_equal_the_metric_of_the_repeated_rows(metric):
    random = np.random.default_rng(3)
    if metric in ("Bleu", "TokenF1"):
        gold = [TEXTS[i] for i in random.integers(0, 5, 40)]
        predictions = [TEXTS[i] for i in random.integers(0, 5, 40)]
    else:
        predictions, gold = _labels(7, 40)
    sums = statistics(metric, predictions, [[text] for text in gold], LABELS)
    drawn = random.integers(0, 40, (6, 40))
    counts = np.stack([np.bincount(rows, minlength=40) for rows in drawn]).astype(float)
    scores = sums.finish(counts @ sums.values)
    wanted = [score(metric, [predictions[i] for i in rows], [[gold[i]] for i in rows], LABELS) for rows in drawn]
    assert scores == pytest.approx(wanted)


def test_no_rows_score_nothing():
    assert score("Accuracy", [], []) == 0.0
