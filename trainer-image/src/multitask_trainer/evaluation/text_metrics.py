"""Tokenization and comparison of texts: by words, or by characters in languages without spaces between words."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import partial

_WORD = re.compile(r"\w+")
_CHARACTER = re.compile(r"\w")
CHARACTER_LANGUAGES = ("zh", "ja")


def tokens(text: str, language: str) -> list[str]:
    """The case-folded words of a text without punctuation; for zh and ja its characters."""
    pattern = _CHARACTER if language in CHARACTER_LANGUAGES else _WORD
    return pattern.findall(text.casefold())


def exact_match(prediction: str, references: Sequence[str]) -> float:
    """1 if the prediction is one of the references, apart from outer white space, its amount inside, and NFC or NFD."""
    return float(_squeezed(prediction) in {_squeezed(reference) for reference in references})


def token_f1(prediction: str, references: Sequence[str], language: str) -> float:
    """The best F1 over references of the tokens in common, each counted as often as both texts have it."""
    predicted = tokens(prediction, language)
    return max((_f1(predicted, tokens(reference, language)) for reference in references), default=0.0)


def rouge_l(predictions: Sequence[str], references: Sequence[Sequence[str]], language: str) -> list[float]:
    """ROUGE-L F1 of each prediction, the best over its references, by rouge-score on our own tokens."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], tokenizer=_Tokenizer(language))
    return [
        float(scorer.score_multi(list(texts), prediction)["rougeL"].fmeasure) if texts else 0.0
        for prediction, texts in zip(predictions, references, strict=True)
    ]


def bleu_tokenizer(language: str) -> str:
    """sacrebleu's tokenizer for a language: its own for zh, characters for ja (no MeCab needed), else 13a."""
    return {"zh": "zh", "ja": "char"}.get(language, "13a")


class _Tokenizer:
    """The interface that RougeScorer expects: an object with ``tokenize``."""

    def __init__(self, language: str) -> None:
        self.tokenize = partial(tokens, language=language)


def _squeezed(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())


def _f1(predicted: Sequence[str], reference: Sequence[str]) -> float:
    if not predicted or not reference:
        return float(predicted == reference)
    common = sum((Counter(predicted) & Counter(reference)).values())
    return 2 * common / (len(predicted) + len(reference))
