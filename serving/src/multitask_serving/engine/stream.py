"""Text from tokens as they come: never half a character, never what may turn out to begin a stop string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_INCOMPLETE = "\ufffd"


class TextStream:
    """Decodes one answer. The deltas, joined, are the answer up to the first stop string that occurs in it."""

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str] = (), separator: str = "") -> None:
        self._tokenizer = tokenizer
        self._stops = tuple(stop for stop in stops if stop)
        self._separator = separator
        self._ids: list[int] = []
        # Text up to _read has been passed on. Decoding starts some tokens before it, at _start, because a decoder may
        # treat the first token of a text differently.
        self._start = self._read = 0
        self._pending = ""
        self.stopped = False
        """A stop string has occurred; what follows is no part of the answer."""

    def push(self, token: int) -> str:
        """The text that is certain now and was not before; may be empty."""
        self._ids.append(token)
        known = self._decode(self._start, self._read)
        text = self._decode(self._start, len(self._ids))
        if text.endswith(_INCOMPLETE):
            return ""
        self._start, self._read = self._read, len(self._ids)
        return self._release(text[len(known) :], final=False)

    def finish(self) -> str:
        """What was held back, now that nothing follows; bytes that never became a character are dropped."""
        known = self._decode(self._start, self._read)
        text = self._decode(self._start, len(self._ids)).rstrip(_INCOMPLETE)
        self._start = self._read = len(self._ids)
        return self._release(text[len(known) :], final=True)

    def _decode(self, start: int, end: int) -> str:
        return self._tokenizer.decode(self._ids[start:end], skip_special_tokens=True)

    def _release(self, text: str, *, final: bool) -> str:
        if self.stopped:
            return ""
        self._pending += text
        if self._separator:
            if not final and len(self._pending) < len(self._separator):
                return ""
            self._pending = self._pending.removeprefix(self._separator)
            self._separator = ""
        found = [at for at in (self._pending.find(stop) for stop in self._stops) if at >= 0]
        if found:
            self.stopped = True
            out, self._pending = self._pending[: min(found)], ""
        else:
            held = 0 if final else self._held()
            cut = len(self._pending) - held
            out, self._pending = self._pending[:cut], self._pending[cut:]
        return out

    def _held(self) -> int:
        """Length of the longest end of the pending text that begins a stop string."""
        longest = min(len(self._pending), max((len(stop) - 1 for stop in self._stops), default=0))
        for length in range(longest, 0, -1):
            if any(stop.startswith(self._pending[-length:]) for stop in self._stops):
                return length
        return 0
