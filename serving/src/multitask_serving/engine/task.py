"""A task of the bundle as the engine answers it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from multitask_api.bundle import ForwardPath, ServedTask
from multitask_serving.engine.batching import cached_batches
from multitask_serving.engine.classification.scoring import TOKEN_BUDGETS as LABEL_BUDGETS
from multitask_serving.engine.classification.scoring import label_batches
from multitask_serving.engine.classification.trie import LabelTrie
from multitask_serving.engine.errors import InvalidBundle, WrongTaskType
from multitask_serving.engine.generation.decoding import TOKEN_BUDGETS as GENERATION_BUDGETS
from multitask_serving.engine.prompt.encoding import prompt_budget


@dataclass(frozen=True)
class EngineTask:
    """What is computed once for a task."""

    served: ServedTask
    trie: LabelTrie | None
    max_answer_tokens: int
    """Of a label, or of a text."""
    max_prompt_tokens: int

    @classmethod
    def of(cls, served: ServedTask) -> EngineTask:
        """Raises `InvalidBundle` for a Generation task without settings."""
        trie = LabelTrie.build(served.labels, served.eos) if served.type == "Classification" else None
        if trie is None and served.generation is None:
            raise InvalidBundle(f"task {served.name!r}: a Generation task needs generation settings")
        answer = trie.longest if trie else served.generation.max_new_tokens if served.generation else 0
        return cls(served, trie, answer, prompt_budget(served.max_length, answer))

    def label_trie(self) -> LabelTrie:
        """The task's labels. Raises `WrongTaskType` if it has none."""
        if self.trie is None:
            raise WrongTaskType(self.served.name, self.served.type)
        return self.trie

    def batches(self, prompt_lengths: Sequence[int], path: ForwardPath, device: torch.device) -> list[list[int]]:
        """The rows of each pass of a model, or of each key-value cache; ``prompt_lengths`` are in tokens."""
        if self.trie is not None:
            tries = [self.trie] * len(prompt_lengths)
            return list(label_batches(path, prompt_lengths, tries, LABEL_BUDGETS[device.type]))
        widths = [length + self.max_answer_tokens for length in prompt_lengths]
        return list(cached_batches(path, prompt_lengths, widths, GENERATION_BUDGETS[device.type]))
