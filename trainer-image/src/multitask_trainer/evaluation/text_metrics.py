"""Comparison of texts: whole, or by tokens, which are words by Unicode, and characters where no spaces separate words.

A character is an extended grapheme cluster (Unicode Standard Annex #29): what a reader sees as one, such as a consonant
with its vowel sign, or a family emoji.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import partial

import regex

CHARACTER_LANGUAGES = ("zh", "ja")
"""Languages whose texts are compared by characters, those in Latin script too."""

# Scripts without spaces between words. Unicode leaves their words to dictionaries, which change with every version;
# characters do not.
_UNSPACED = (
    r"\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Bopomofo}"
    r"\p{Script=Yi}\p{Script=Thai}\p{Script=Lao}\p{Script=Khmer}"
    r"\p{Script=Myanmar}\p{Script=Tai_Le}\p{Script=New_Tai_Lue}\p{Script=Tai_Tham}"
    r"\p{Script=Tai_Viet}\p{Script=Balinese}\p{Script=Javanese}"
)
_SYMBOL = r"[\p{Sm}\p{Sc}\p{So}^\p{Regional_Indicator}\p{Extended_Pictographic}--[#*0-9]]"
_TOKEN = regex.compile(
    rf"(?=[{_UNSPACED}--[\p{{P}}\p{{S}}]])\X"
    rf"|(?={_SYMBOL})\X"
    r"|\p{P}\p{M}+"  # a keycap, such as # in a box
    r"|(?<![\p{L}\p{N}\p{M}_])-(?=\p{Nd})"  # the sign of a number
    rf"|[[\p{{L}}\p{{N}}\p{{M}}_\u200c\u200d]--[{_UNSPACED}]--{_SYMBOL}]+",
    regex.VERSION1,
)
_CHARACTER = regex.compile(r"(?!\s)\X", regex.VERSION1)
_JOINERS = "\u200c\u200d"
_VARIATION_SELECTORS = dict.fromkeys((0xFE0E, 0xFE0F))
_BLEU_TOKENIZERS = {"zh": "zh", "yue": "zh", "ja": "char", "th": "char", "lo": "char", "km": "char", "my": "char"}


def tokens(text: str, language: str) -> list[str]:
    """The case-folded words and symbols of a text, without punctuation; for zh and ja its characters.

    Combining marks belong to their word. Symbols and emoji are tokens. Scripts without spaces between words, such as
    Thai and Khmer, are split into characters in every language. A text of nothing but punctuation has that as its
    tokens. Texts that look the same have the same tokens: they are compared in normal form C.
    """
    normalised = normal_form(normal_form(text).casefold()).translate(_VARIATION_SELECTORS)
    found = [token for token in _TOKEN.findall(normalised) if token.strip(_JOINERS)]
    if not found:
        return list(_CHARACTER.findall(normalised))
    if language in CHARACTER_LANGUAGES:
        return [character for token in found for character in _CHARACTER.findall(token)]
    return found


def normal_form(text: str) -> str:
    """The text in Unicode's normal form C: letters with marks in their one shortest spelling."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def exact_match(prediction: str, references: Sequence[str]) -> float:
    """1 if the prediction is one of the references; white space at the ends and its amount inside do not count.

    Two spellings of one text in Unicode, such as an accent that is a character of its own, are equal.
    """
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
    """sacrebleu's tokenizer for a language: for zh and yue its own, for others without spaces characters, else 13a.

    Those of ja, th, lo, km and my are characters: their dictionaries would have to be installed.
    """
    return _BLEU_TOKENIZERS.get(language, "13a")


class _Tokenizer:
    """The interface that RougeScorer expects: an object with ``tokenize``."""

    def __init__(self, language: str) -> None:
        self.tokenize = partial(tokens, language=language)


def _squeezed(text: str) -> str:
    return " ".join(normal_form(text).split())


def _f1(predicted: Sequence[str], reference: Sequence[str]) -> float:
    if not predicted or not reference:
        return float(predicted == reference)
    common = sum((Counter(predicted) & Counter(reference)).values())
    return 2 * common / (len(predicted) + len(reference))
