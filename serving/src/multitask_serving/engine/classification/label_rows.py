"""Hidden states of label tries for models whose layers do not obey masks: no two labels share a sequence.

Both functions return what one pass over prompts and tries returns: for each row the hidden state at the prompt's last
token and at each node of its trie, row after row, (Σ (M + 1), H).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from multitask_serving.engine.batching import AdapterContext, sequence_batches, use_adapters
from multitask_serving.engine.classification.trie import Ints, LabelTrie
from multitask_serving.engine.model.backbone import Backbone
from multitask_serving.engine.model.cached_rows import CachedRows

STATE_BUDGETS = {"cpu": 1 << 28, "cuda": 1 << 32}
"""Bytes of copied states at once."""


def states_of_tries(
    backbone: Backbone,
    prompts: Sequence[Sequence[int]],
    tries: Sequence[LabelTrie],
    rows: Sequence[int],
    adapter_context: AdapterContext | None,
) -> Tensor:
    """The prompts are run once. Their state is copied for every label and goes on through the trie, level by level.

    ``rows`` are the numbers of the prompts in the call, for their adapters.
    """
    offsets = offsets_of(tries)
    with use_adapters(adapter_context, rows):
        cached = CachedRows(backbone, prompts)
        at_prompts = cached.read_prompts()
    hidden = at_prompts.new_empty(offsets[-1], at_prompts.shape[-1])
    hidden[torch.tensor(offsets[:-1], device=hidden.device)] = at_prompts
    most = max(1, STATE_BUDGETS[hidden.device.type] // max(1, cached.bytes_per_row))
    for leaves in _chunks(tries, most):
        branch = cached
        before: dict[tuple[int, int], int] = {}
        for level in _levels(tries, leaves):
            index = [before[row, tries[row].parents[node]] if before else row for row, node in level]
            branch = cached.copy(_tensor(index, hidden)) if branch is cached else branch
            if before:
                branch.select(_tensor(index, hidden))
            with use_adapters(adapter_context, [rows[row] for row, _ in level]):
                states = branch.read(_tensor([tries[row].tokens[node] for row, node in level], hidden))
            hidden[_tensor([offsets[row] + 1 + node for row, node in level], hidden)] = states
            before = {place: number for number, place in enumerate(level)}
    return hidden


def sequences_of_tries(
    backbone: Backbone,
    prompts: Sequence[Sequence[int]],
    tries: Sequence[LabelTrie],
    rows: Sequence[int],
    adapter_context: AdapterContext | None,
    token_budget: int,
) -> Tensor:
    """Prompt and label as one sequence, for each leaf of the tries; padded on the right, where nothing reads it."""
    offsets = offsets_of(tries)
    chains = [(row, trie.chain(leaf)) for row, trie in enumerate(tries) for leaf in trie.leaves]
    lengths = [len(prompts[row]) + len(chain) for row, chain in chains]
    hidden: Tensor | None = None
    for batch in sequence_batches(backbone.path, lengths, token_budget):
        width = max(lengths[number] for number in batch)
        input_ids = torch.zeros(len(batch), width, dtype=torch.int64)
        for line, number in enumerate(batch):
            row, chain = chains[number]
            input_ids[line, : lengths[number]] = torch.tensor([*prompts[row], *tries[row].tokens[chain]])
        position_ids = torch.arange(width, device=backbone.device).expand(len(batch), width)
        with use_adapters(adapter_context, [rows[chains[number][0]] for number in batch]):
            states = backbone.hidden_states(input_ids.to(backbone.device), position_ids)
        if hidden is None:
            hidden = states.new_empty(offsets[-1], states.shape[-1])
        for line, number in enumerate(batch):
            row, chain = chains[number]
            targets = offsets[row] + np.concatenate([[0], 1 + chain])
            hidden[_tensor(targets, hidden)] = states[line, len(prompts[row]) - 1 : lengths[number]]
    if hidden is None:
        raise ValueError("there are no prompts")
    return hidden


def _chunks(tries: Sequence[LabelTrie], most: int) -> Iterator[list[tuple[int, int]]]:
    """The leaves of all tries as (row, leaf), at most ``most`` at a time."""
    leaves = [(row, int(leaf)) for row, trie in enumerate(tries) for leaf in trie.leaves]
    yield from (leaves[start : start + most] for start in range(0, len(leaves), most))


def _levels(tries: Sequence[LabelTrie], leaves: Sequence[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    """The nodes on the way to ``leaves`` as (row, node), each once, by depth."""
    nodes = dict.fromkeys((row, int(node)) for row, leaf in leaves for node in tries[row].chain(leaf))
    deepest = max((int(tries[row].depths[node]) for row, node in nodes), default=-1)
    for depth in range(deepest + 1):
        yield [(row, node) for row, node in nodes if tries[row].depths[node] == depth]


def offsets_of(tries: Sequence[LabelTrie]) -> list[int]:
    """Where each row begins in the hidden states of all rows, and where the last one ends."""
    return [0, *np.cumsum([trie.size + 1 for trie in tries]).tolist()]


def _tensor(values: Sequence[int] | Ints, like: Tensor) -> Tensor:
    return torch.as_tensor(np.asarray(values, dtype=np.int64), device=like.device)
