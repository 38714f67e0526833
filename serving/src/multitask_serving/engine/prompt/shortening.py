"""Cuts long texts before they are tokenised: work and memory follow what the model reads, not what a caller sends."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

GROWTH = 4
"""A beginning that gave too few tokens is made longer by this factor, until it gives enough or is the whole text."""
MARGIN = 64
"""Tokens that are tokenised beyond those that are read. The ids near the cut may be others than in the whole text."""

_longest_tokens: WeakKeyDictionary[PreTrainedTokenizerFast, int] = WeakKeyDictionary()


def longest_token(tokenizer: PreTrainedTokenizerFast) -> int:
    """The most characters that one token of the vocabulary stands for.

    Byte-level vocabularies spell a character as up to four, so for them it is an upper bound.
    """
    length = _longest_tokens.get(tokenizer)
    if length is None:
        length = max(map(len, tokenizer.backend_tokenizer.get_vocab(with_added_tokens=True)), default=1)
        _longest_tokens[tokenizer] = length
    return length


def shorten(text: str, tokens: int, longest: int) -> str:
    """A beginning of ``text`` whose first ``tokens`` ids are those of the whole text; all of it if it is short.

    ``tokens`` tokens stand for at most ``tokens * longest`` characters. The cut is at white space where there is some
    near, so that no word is halved. A tokenizer may drop characters, or make one token of an unknown word: if the
    beginning has fewer ids than ``tokens``, tokenise a longer one.
    """
    limit = (tokens + MARGIN) * longest
    if len(text) <= limit:
        return text
    beginning = text[:limit]
    for cut in range(limit - 1, limit - MARGIN * longest // 2, -1):
        if beginning[cut].isspace():
            return beginning[:cut]
    return beginning
