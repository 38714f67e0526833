"""Incremental detokenisation: text from tokens as they come, never half a character or part of a stop string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_INCOMPLETE = "\ufffd"


class TextStream:
    """Decodes one answer. Its deltas, joined, are the answer up to the first stop string.

    ``separator`` is removed from the answer's beginning (see `prompt.template.answer_separator`).
    """

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str] = (), separator: str = "") -> None:
        self._tokenizer = tokenizer
        self._stops = tuple(stop for stop in stops if stop)
        self._separator = separator
        self._ids: list[int] = []
        # Tokens before _read_offset have been decoded. Decoding starts some tokens earlier, at _prefix_offset, because
        # a decoder may treat the first token of a text differently.
        self._prefix_offset = self._read_offset = 0
        self._pending = ""
        self.stopped = False
        """Whether a stop string has occurred; the answer ends before it."""

    def push(self, token: int) -> str:
        """Add a token; returns the text that is now certain, which may be empty."""
        self._ids.append(token)
        prefix = self._decode(self._prefix_offset, self._read_offset)
        text = self._decode(self._prefix_offset, len(self._ids))
        if text.endswith(_INCOMPLETE):
            return ""
        self._prefix_offset, self._read_offset = self._read_offset, len(self._ids)
        return self._emit(text[len(prefix) :], final=False)

    def finish(self) -> str:
        """End the answer; returns the text held back so far. Bytes of an incomplete character are dropped."""
        prefix = self._decode(self._prefix_offset, self._read_offset)
        text = self._decode(self._prefix_offset, len(self._ids)).rstrip(_INCOMPLETE)
        self._prefix_offset = self._read_offset = len(self._ids)
        return self._emit(text[len(prefix) :], final=True)

    def _decode(self, start: int, end: int) -> str:
        return self._tokenizer.decode(self._ids[start:end], skip_special_tokens=True)

    def _emit(self, text: str, *, final: bool) -> str:
        if self.stopped:
            return ""
        self._pending += text
        if self._separator:
            if not final and len(self._pending) < len(self._separator):
                return ""
            self._pending = self._pending.removeprefix(self._separator)
            self._separator = ""
        positions = [position for position in (self._pending.find(stop) for stop in self._stops) if position >= 0]
        if positions:
            self.stopped = True
            out, self._pending = self._pending[: min(positions)], ""
        else:
            cut = len(self._pending) - (0 if final else self._stop_prefix_length())
            out, self._pending = self._pending[:cut], self._pending[cut:]
        return out

    def _stop_prefix_length(self) -> int:
        """Length of the longest suffix of the pending text that is a prefix of a stop string."""
        longest = min(len(self._pending), max((len(stop) - 1 for stop in self._stops), default=0))
        for length in range(longest, 0, -1):
            if any(stop.startswith(self._pending[-length:]) for stop in self._stops):
                return length
        return 0
