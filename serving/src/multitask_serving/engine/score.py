"""Classification: the log probability of every label of a task, for a batch of rows, in one forward pass.

Score of a label = Σ log p over its tokens *and EOS*, without length normalisation. Each row is its prompt followed at
once by the nodes of its task's label trie; a node attends to the prompt and to its own ancestors only, and its position
is prompt length + depth. So the prompt is run once whatever the number of labels, rows of different tasks share a
batch, and no key-value cache is needed: one pass over prompt + trie does the arithmetic of two and half their overhead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from multitask_serving.engine.backbone import Backbone, evaluating
from multitask_serving.engine.trie import Ints, Trie

Scores = npt.NDArray[np.float64]
Select = Callable[[Sequence[int]], AbstractContextManager[object]]
"""Given the rows of a batch, sets up the model for them (which adapter each row takes)."""

TOKEN_BUDGETS = {"cpu": 2048, "cuda": 32768}
"""Padded tokens of one forward pass. Measured on one core: beyond 2,048, activations no longer stay in its cache."""
LOGIT_BUDGETS = {"cpu": 1 << 20, "cuda": 1 << 27}
"""Logits held at once (4 MB in fp32 on a CPU core, again for its cache)."""
MASK_BUDGET = 1 << 26
"""Entries of one pass's attention mask, rows × width²."""


def classify_rows(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    tries: Sequence[Trie],
    *,
    select: Select | None = None,
    token_budget: int | None = None,
) -> list[Scores]:
    """Per row, the log probability of each of its trie's labels, (L,) in nats, in the labels' order.

    ``model`` is any Hugging Face causal language model, on any device, in training or not. Rows may number thousands:
    they are sorted by length and cut into passes of ``token_budget`` tokens (by default `TOKEN_BUDGETS`).
    """
    backbone = Backbone.of(model)
    results: list[Scores] = [np.empty(0)] * len(prompts)
    widths = [len(prompt) + trie.size for prompt, trie in zip(prompts, tries, strict=True)]
    with evaluating(model):
        for rows in micro_batches(widths, token_budget or TOKEN_BUDGETS[backbone.device.type]):
            with select(rows) if select else nullcontext():
                scores = score_batch(backbone, [prompts[row] for row in rows], [tries[row] for row in rows])
            for row, score in zip(rows, scores, strict=True):
                results[row] = score
    return results


def best_labels(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    trie: Trie,
    gold: Ints,
    *,
    token_budget: int | None = None,
) -> tuple[Ints, Scores]:
    """Per row the number of its most probable label, (B,), and the log probability of its ``gold`` one, (B,) in nats.

    The same answer as the best of `classify_rows` (but for ties within rounding) with less work when labels are many:
    a first pass runs the gold label's nodes alone. A model that is right and sure needs no other, because every other
    label's upper bound is below; where that is not so, a second pass scores the labels that could still win.
    """
    # A trie shorter than its prompt is better scored at once than after a second run of the prompt.
    first = [
        trie if trie.size <= len(prompt) else trie.covering([label])
        for prompt, label in zip(prompts, gold, strict=True)
    ]
    bounds = np.stack(classify_rows(model, prompts, first, token_budget=token_budget))
    gold_scores = bounds[np.arange(len(prompts)), gold]
    rivals = bounds >= gold_scores[:, None]
    open_rows = [row for row, tried in enumerate(first) if tried is not trie and rivals[row].sum() > 1]
    second = [trie.covering(np.flatnonzero(rivals[row])) for row in open_rows]
    found = classify_rows(model, [prompts[row] for row in open_rows], second, token_budget=token_budget)
    for row, scores in zip(open_rows, found, strict=True):
        bounds[row] = np.where(rivals[row], scores, -np.inf)
    return bounds.argmax(axis=1), gold_scores


def micro_batches(widths: Sequence[int], token_budget: int) -> Iterator[list[int]]:
    """Rows of similar width, the widest first (so that too little memory shows at once), within the budgets."""
    batch: list[int] = []
    widest = 0
    for row in sorted(range(len(widths)), key=lambda row: -widths[row]):
        if batch and ((len(batch) + 1) * widest > token_budget or (len(batch) + 1) * widest**2 > MASK_BUDGET):
            yield batch
            batch = []
        if not batch:
            widest = widths[row]
        batch.append(row)
    if batch:
        yield batch


def score_batch(backbone: Backbone, prompts: Sequence[Sequence[int]], tries: Sequence[Trie]) -> list[Scores]:
    """`classify_rows` for rows that fit one pass; the caller has turned autograd and dropout off."""
    lengths = np.array([len(prompt) for prompt in prompts])
    ids, positions, allowed = _lay_out(prompts, tries)
    device = backbone.device
    hidden = backbone.decoder(
        input_ids=torch.from_numpy(ids).to(device),
        position_ids=torch.from_numpy(positions).to(device),
        attention_mask=backbone.attention_mask(torch.from_numpy(allowed).to(device)),
        use_cache=False,
    ).last_hidden_state
    # A row's sources are the prompt's last token and then its nodes, side by side.
    width = ids.shape[1]
    sources = [
        row * width + length - 1 + np.arange(trie.size + 1)
        for row, (length, trie) in enumerate(zip(lengths, tries, strict=True))
    ]
    offsets = np.cumsum([0, *(len(each) for each in sources)])
    hidden = hidden.reshape(-1, hidden.shape[-1])[torch.from_numpy(np.concatenate(sources)).to(device)]
    edge_sources = np.concatenate([offset + trie.edge_sources for offset, trie in zip(offsets, tries, strict=False)])
    edge_targets = np.concatenate([trie.edge_targets for trie in tries])
    return _sum_by_label(_edge_log_probs(backbone.head, hidden, edge_sources, edge_targets), tries)


def _lay_out(prompts: Sequence[Sequence[int]], tries: Sequence[Trie]) -> tuple[Ints, Ints, npt.NDArray[np.bool_]]:
    """Ids and positions (B, W) and the mask (B, 1, W, W). Rows are padded behind, where nothing attends to them."""
    width = max(len(prompt) + trie.size for prompt, trie in zip(prompts, tries, strict=True))
    ids = np.zeros((len(prompts), width), dtype=np.int64)
    positions = np.tile(np.arange(width), (len(prompts), 1))
    allowed = np.tile(np.tri(width, dtype=np.bool_), (len(prompts), 1, 1, 1))
    for row, (prompt, trie) in enumerate(zip(prompts, tries, strict=True)):
        start, end = len(prompt), len(prompt) + trie.size
        ids[row, :start] = prompt
        ids[row, start:end] = trie.tokens
        positions[row, start:end] = start + trie.depths
        positions[row, end:] = 0
        allowed[row, 0, start:end, start:end] = trie.ancestors
    return ids, positions, allowed


def _edge_log_probs(head: nn.Module, hidden: Tensor, edge_sources: Ints, edge_targets: Ints) -> Scores:
    """log p(target | source) of each edge, from hidden states (S, H); log-softmax in fp32, some sources at a time."""
    vocabulary = int(head.weight.shape[0])  # type: ignore[index]
    step = max(1, LOGIT_BUDGETS[hidden.device.type] // vocabulary)
    found = []
    for start in range(0, len(hidden), step):
        # log_softmax takes half the time of logsumexp on a CPU: one pass, vectorised.
        log_probs = torch.log_softmax(head(hidden[start : start + step]).float(), dim=-1)
        first, last = np.searchsorted(edge_sources, [start, start + step])
        here = torch.from_numpy(edge_sources[first:last] - start).to(hidden.device)
        targets = torch.from_numpy(edge_targets[first:last]).to(hidden.device)
        found.append(log_probs[here, targets])
    return torch.cat(found).cpu().numpy().astype(np.float64)


def _sum_by_label(edges: Scores, tries: Sequence[Trie]) -> list[Scores]:
    scores = []
    first = 0
    for trie in tries:
        last = first + len(trie.edge_sources)
        scores.append(np.add.reduceat(edges[first:last][trie.label_edges], trie.label_starts))
        first = last
    return scores
