"""Rows as token ids, by the same code that encodes requests when the model serves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from multitask_api.bundle import LabelIds, PromptFormat, PromptPiece
from multitask_api.stage_io.parameters import TaskDefinition
from multitask_serving.engine.prompt.compiling import compile_prompt
from multitask_serving.engine.prompt.encoding import compile_labels, encode_prompts, encode_target, prompt_budget
from multitask_trainer.data.rows import Row
from multitask_trainer.errors import DataError, StageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

ROWS_AT_ONCE = 4096
"""Rows whose ids are there as Python lists."""
PROMPT_CUT, ANSWER_CUT = 1, 2


@dataclass(frozen=True)
class TaskEncoder:
    """How one task's rows become ids: compiled once a task and tokenizer."""

    task: TaskDefinition
    tokenizer: PreTrainedTokenizerFast
    pieces: tuple[PromptPiece, ...]
    bos: tuple[int, ...]
    eos: int
    labels: tuple[LabelIds, ...]
    answer_tokens: int
    """The most tokens an answer has, EOS not included: the longest label, or ``maxNewTokens``."""
    prompt_tokens: int
    """The most tokens a prompt may have."""

    @classmethod
    def of(
        cls,
        task: TaskDefinition,
        tokenizer: PreTrainedTokenizerFast,
        *,
        max_length: int,
        chat_template: bool,
        prompt_format: PromptFormat,
    ) -> TaskEncoder:
        """Compile the task's prompt and labels. Raises the engine's errors for a prompt or labels it cannot serve."""
        pieces, prefix = compile_prompt(task.prompt, tokenizer, prompt_format, chat=chat_template)
        if tokenizer.eos_token_id is None:
            raise StageError("the base model's tokenizer has no end-of-sequence token; use another base")
        labels = compile_labels(task.labels, tokenizer, pieces) if task.type == "Classification" else ()
        if task.generation is not None:
            answer_tokens = task.generation.max_new_tokens
        else:
            answer_tokens = max(len(label.ids) for label in labels)
        return cls(
            task=task,
            tokenizer=tokenizer,
            pieces=pieces,
            bos=prefix,
            eos=int(tokenizer.eos_token_id),
            labels=labels,
            answer_tokens=answer_tokens,
            prompt_tokens=prompt_budget(max_length, answer_tokens),
        )

    def encode(self, rows: Sequence[Row]) -> EncodedDataset:
        """The rows as ids. Raises `DataError` for an answer that has no token."""
        parts = (rows[begin : begin + ROWS_AT_ONCE] for begin in range(0, len(rows), ROWS_AT_ONCE))
        return EncodedDataset.joined([self._encode_part(part) for part in parts])

    def encode_parts(self, parts: Iterable[Sequence[Row]]) -> Iterator[EncodedDataset]:
        """`encode` of each part, one after the other, so that only one is in memory."""
        for part in parts:
            yield self.encode(part)

    @property
    def settings(self) -> dict[str, object]:
        """All that the ids follow from beside the rows and the tokenizer, as JSON."""
        return {
            "pieces": [piece.to_json() for piece in self.pieces],
            "bos": list(self.bos),
            "eos": self.eos,
            "labels": [label.to_json() for label in self.labels],
            "answer_tokens": self.answer_tokens,
            "prompt_tokens": self.prompt_tokens,
        }

    def _encode_part(self, rows: Sequence[Row]) -> EncodedDataset:
        known = {label.label: label.ids for label in self.labels}
        answers: list[Sequence[int]] = []
        cut: list[int] = []
        requests = [(self.pieces, row.fields, self.prompt_tokens, self.bos) for row in rows]
        prompts = encode_prompts(requests, self.tokenizer)
        for row, prompt in zip(rows, prompts, strict=True):
            ids = known[row.answer] if known else encode_target(self.tokenizer, row.answer, self.pieces)
            if not ids:
                raise DataError(f"task {self.task.name}: a row's target has no text; remove the row")
            # A target that is cut does not end there, so it gets no EOS: serving stops at the same length.
            is_cut = len(ids) > self.answer_tokens
            answers.append(ids[: self.answer_tokens] if is_cut else (*ids, self.eos))
            cut.append(PROMPT_CUT * prompt.truncated + ANSWER_CUT * is_cut)
        return EncodedDataset.of([prompt.ids for prompt in prompts], answers, cut)


@dataclass(frozen=True)
class EncodedDataset:
    """Encoded rows, in flat arrays: row i is ``ids[starts[i]:starts[i + 1]]``, prompt and then answer with EOS."""

    ids: NDArray[np.int32]
    starts: NDArray[np.int64]
    """(rows + 1,)"""
    prompt_lengths: NDArray[np.int32]
    """(rows,)"""
    cut: NDArray[np.uint8]
    """(rows,) `PROMPT_CUT` + `ANSWER_CUT`, of a row that lost text."""

    @classmethod
    def of(
        cls, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], cut: Sequence[int] | None = None
    ) -> EncodedDataset:
        """Join prompts and answers row by row."""
        lengths = [len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True)]
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        ids = np.empty(starts[-1], dtype=np.int32)
        for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            middle = starts[row] + len(prompt)
            ids[starts[row] : middle] = prompt
            ids[middle : starts[row + 1]] = answer
        prompt_lengths = np.array([len(prompt) for prompt in prompts], dtype=np.int32)
        return cls(ids, starts, prompt_lengths, np.array(cut or [0] * len(prompts), dtype=np.uint8))

    @classmethod
    def joined(cls, parts: Sequence[EncodedDataset]) -> EncodedDataset:
        """The rows of all parts, one after the other."""
        if len(parts) == 1:
            return parts[0]
        lengths = [np.diff(part.starts) for part in parts]
        return cls(
            ids=np.concatenate([np.empty(0, np.int32), *(part.ids for part in parts)]),
            starts=np.concatenate([np.zeros(1, np.int64), *lengths]).cumsum(),
            prompt_lengths=np.concatenate([np.empty(0, np.int32), *(part.prompt_lengths for part in parts)]),
            cut=np.concatenate([np.empty(0, np.uint8), *(part.cut for part in parts)]),
        )

    def __len__(self) -> int:
        return len(self.prompt_lengths)

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return int(np.diff(self.starts).max())

    @property
    def longest_row(self) -> NDArray[np.int32]:
        """Its ids."""
        return self.row(int(np.diff(self.starts).argmax()))[0]

    @property
    def longest_answer(self) -> int:
        """Tokens of the longest answer, EOS included."""
        return int((np.diff(self.starts) - self.prompt_lengths).max())

    def row(self, index: int) -> tuple[NDArray[np.int32], int]:
        """A row's ids and the length of its prompt."""
        return self.ids[self.starts[index] : self.starts[index + 1]], int(self.prompt_lengths[index])

    def prompt(self, index: int) -> list[int]:
        """A row's prompt."""
        ids, length = self.row(index)
        prompt: list[int] = ids[:length].tolist()
        return prompt

    def row_answered_by(self, index: int, other: int) -> tuple[NDArray[np.int32], int]:
        """As `row`, with the answer of row ``other``."""
        ids, length = self.row(index)
        others, begin = self.row(other)
        return np.concatenate([ids[:length], others[begin:]]), length

    @property
    def truncated(self) -> int:
        """Rows that lost text, in a field or in the target; one that lost both counts twice."""
        return _cut_texts(self.cut)

    def truncated_of(self, numbers: NDArray[np.int64]) -> int:
        """`truncated` of these rows alone."""
        return _cut_texts(self.cut[numbers])


def _cut_texts(cut: NDArray[np.uint8]) -> int:
    return int(np.count_nonzero(cut & PROMPT_CUT) + np.count_nonzero(cut & ANSWER_CUT))
