"""Classification: the log probability of every label of a task, for a batch of rows, in one forward pass.

The log-probability of a label is Σ log p over its tokens *and EOS*, without length normalisation; it is the label's
score. A row of the batch is a prompt
followed by the nodes of its task's label trie. A node attends to the prompt and to its own ancestors only, and its
position is prompt length + depth. So the prompt is run once for any number of labels, and rows of different tasks share
a batch. No key-value cache is used: a second pass over cached prompts would do the same arithmetic with more overhead.

Models with layers that do not obey masks are run in another way, see ``label_rows``; the path says which.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from multitask_api.bundle import ForwardPath
from multitask_serving.engine.batching import AdapterContext, cached_batches, micro_batches, use_adapters
from multitask_serving.engine.classification.label_rows import offsets_of, sequences_of_tries, states_of_tries
from multitask_serving.engine.classification.trie import Ints, LabelTrie
from multitask_serving.engine.model.backbone import Backbone, eval_mode
from multitask_serving.engine.model.head import OutputHead

LogProbs = npt.NDArray[np.float64]
"""Log probabilities in nats, fp64."""

TOKEN_BUDGETS = {"cpu": 2048, "cuda": 32768}
"""Padded tokens of one forward pass. Measured on one CPU core: beyond 2,048, activations no longer fit its cache."""
LOGIT_BUDGETS = {"cpu": 1 << 20, "cuda": 1 << 27}
"""Logits in memory at once. On a CPU they are 4 MB in fp32, which also fits a core's cache."""


def label_log_probs(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    tries: Sequence[LabelTrie],
    *,
    path: ForwardPath | None = None,
    adapter_context: AdapterContext | None = None,
    token_budget: int | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> list[LogProbs]:
    """Per row, the log probability of each label of its trie: (L,) in nats, in the labels' order.

    ``model`` is any Hugging Face causal language model, on any device, run as ``path`` says (None: `MASKED`); dropout
    and autograd are off while it runs, and its training mode is restored afterwards. ``prompts`` are token ids. There
    may be thousands of rows: they are sorted by length and run in passes of at most ``token_budget`` padded tokens
    (default: `TOKEN_BUDGETS`). ``on_batch`` is called after each pass with the number of its rows.
    """
    backbone = Backbone.of(model, path)
    results: list[LogProbs] = [np.empty(0)] * len(prompts)
    budget = token_budget or TOKEN_BUDGETS[backbone.device.type]
    with eval_mode(model):
        for rows in label_batches(backbone.path, [len(prompt) for prompt in prompts], tries, budget):
            batch = [prompts[row] for row in rows], [tries[row] for row in rows]
            hidden = _hidden_states(backbone, *batch, rows, adapter_context, budget)
            for row, log_probs in zip(rows, _from_hidden(backbone, hidden, batch[1]), strict=True):
                results[row] = log_probs
            if on_batch is not None:
                on_batch(len(rows))
    return results


def label_batches(
    path: ForwardPath, lengths: Sequence[int], tries: Sequence[LabelTrie], budget: int
) -> Iterator[list[int]]:
    """The rows of each pass; ``lengths`` are the prompts' in tokens."""
    widths = [length + trie.size for length, trie in zip(lengths, tries, strict=True)]
    return (
        cached_batches(path, lengths, widths, budget) if path.labels == "PromptState" else micro_batches(widths, budget)
    )


def _hidden_states(
    backbone: Backbone,
    prompts: Sequence[Sequence[int]],
    tries: Sequence[LabelTrie],
    rows: Sequence[int],
    adapter_context: AdapterContext | None,
    budget: int,
) -> Tensor:
    """At the prompts' last tokens and the tries' nodes, row after row: (Σ (M + 1), H)."""
    if backbone.path.labels == "PromptState":
        return states_of_tries(backbone, prompts, tries, rows, adapter_context)
    if backbone.path.labels == "Sequences":
        return sequences_of_tries(backbone, prompts, tries, rows, adapter_context, budget)
    with use_adapters(adapter_context, rows):
        return _one_pass(backbone, prompts, tries)


def best_labels(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    trie: LabelTrie,
    gold: Ints,
    *,
    path: ForwardPath | None = None,
    token_budget: int | None = None,
) -> tuple[Ints, LogProbs]:
    """Per row, the index of the most probable label (B,) and the log probability of the ``gold`` label (B,) in nats.

    ``gold`` (B,) holds label indices. The result is that of `label_log_probs` (except for ties within rounding), with
    less work when there are many labels. The first pass runs the gold label's nodes only, which also gives an upper
    bound for every other label (see `LabelTrie.covering`). If all bounds are below the gold label's score, the row is
    decided; otherwise a second pass scores the labels that could still win.
    """
    # If the trie is shorter than the prompt, one full pass costs less than running the prompt a second time.
    first = [
        trie if trie.size <= len(prompt) else trie.covering([label])
        for prompt, label in zip(prompts, gold, strict=True)
    ]
    bounds = np.stack(label_log_probs(model, prompts, first, path=path, token_budget=token_budget))
    gold_scores = bounds[np.arange(len(prompts)), gold]
    rivals = bounds >= gold_scores[:, None]
    undecided = [row for row, scored in enumerate(first) if scored is not trie and rivals[row].sum() > 1]
    second = [trie.covering(np.flatnonzero(rivals[row])) for row in undecided]
    rescored = label_log_probs(model, [prompts[row] for row in undecided], second, path=path, token_budget=token_budget)
    for row, scores in zip(undecided, rescored, strict=True):
        bounds[row] = np.where(rivals[row], scores, -np.inf)
    return bounds.argmax(axis=1), gold_scores


def _one_pass(backbone: Backbone, prompts: Sequence[Sequence[int]], tries: Sequence[LabelTrie]) -> Tensor:
    lengths = np.array([len(prompt) for prompt in prompts])
    input_ids, position_ids, mask = _collate(prompts, tries)
    device = backbone.device
    hidden = backbone.hidden_states(
        torch.from_numpy(input_ids).to(device),
        torch.from_numpy(position_ids).to(device),
        torch.from_numpy(mask).to(device),
    )
    # Logits are needed at each prompt's last token and at the trie nodes that follow it.
    width = input_ids.shape[1]
    logit_positions = [
        row * width + length - 1 + np.arange(trie.size + 1)
        for row, (length, trie) in enumerate(zip(lengths, tries, strict=True))
    ]
    return hidden.reshape(-1, hidden.shape[-1])[torch.from_numpy(np.concatenate(logit_positions)).to(device)]


def _from_hidden(backbone: Backbone, hidden: Tensor, tries: Sequence[LabelTrie]) -> list[LogProbs]:
    starts = offsets_of(tries)
    edge_sources = np.concatenate([start + trie.edge_sources for start, trie in zip(starts, tries, strict=False)])
    edge_targets = np.concatenate([trie.edge_targets for trie in tries])
    return _sum_by_label(_edge_log_probs(backbone.head, hidden, edge_sources, edge_targets), tries)


def _collate(prompts: Sequence[Sequence[int]], tries: Sequence[LabelTrie]) -> tuple[Ints, Ints, npt.NDArray[np.bool_]]:
    """input_ids (B, W), position_ids (B, W) and the attention mask (B, 1, W, W), true for "attend"; right-padded."""
    width = max(len(prompt) + trie.size for prompt, trie in zip(prompts, tries, strict=True))
    input_ids = np.zeros((len(prompts), width), dtype=np.int64)
    position_ids = np.tile(np.arange(width), (len(prompts), 1))
    mask = np.tile(np.tri(width, dtype=np.bool_), (len(prompts), 1, 1, 1))
    for row, (prompt, trie) in enumerate(zip(prompts, tries, strict=True)):
        start, end = len(prompt), len(prompt) + trie.size
        input_ids[row, :start] = prompt
        input_ids[row, start:end] = trie.tokens
        position_ids[row, start:end] = start + trie.depths
        position_ids[row, end:] = 0
        mask[row, 0, start:end, start:end] = trie.ancestors
    return input_ids, position_ids, mask


def _edge_log_probs(head: OutputHead, hidden: Tensor, edge_sources: Ints, edge_targets: Ints) -> LogProbs:
    """log p(target | source) of each edge (E,), from the sources' hidden states (S, H).

    The log-softmax is computed in fp32, for as many sources at a time as `LOGIT_BUDGETS` allows.
    """
    step = max(1, LOGIT_BUDGETS[hidden.device.type] // head.vocabulary)
    chunks = []
    for start in range(0, len(hidden), step):
        # On a CPU log_softmax takes half the time of logsumexp: one vectorised pass.
        log_probs = torch.log_softmax(head(hidden[start : start + step]).float(), dim=-1)
        first, last = np.searchsorted(edge_sources, [start, start + step])
        rows = torch.from_numpy(edge_sources[first:last] - start).to(hidden.device)
        targets = torch.from_numpy(edge_targets[first:last]).to(hidden.device)
        chunks.append(log_probs[rows, targets])
    return torch.cat(chunks).cpu().numpy().astype(np.float64)


def _sum_by_label(edges: LogProbs, tries: Sequence[LabelTrie]) -> list[LogProbs]:
    log_probs = []
    first = 0
    for trie in tries:
        last = first + len(trie.edge_sources)
        log_probs.append(np.add.reduceat(edges[first:last][trie.label_edges], trie.label_starts))
        first = last
    return log_probs
