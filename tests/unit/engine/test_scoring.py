from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from multitask_api.bundle import LabelIds
from multitask_serving.engine.classification import scoring
from multitask_serving.engine.classification.scoring import best_labels, label_log_probs, micro_batches
from multitask_serving.engine.classification.trie import LabelTrie
from multitask_serving.engine.errors import InvalidBundle
from multitask_serving.engine.model.backbone import Backbone
from multitask_serving.engine.model.head import OutputHead
from support.engine_builders import llama

EOS = 2
DRAW = np.random.default_rng(3)


def trie(*labels: Sequence[int]) -> LabelTrie:
    return LabelTrie.build([LabelIds(label=str(i), ids=tuple(ids)) for i, ids in enumerate(labels)], EOS)


def prompt(length: int) -> list[int]:
    return [int(token) for token in DRAW.integers(3, 420, length)]


def many(count: int) -> list[tuple[int, ...]]:
    """Distinct labels of 1 to 4 tokens from few tokens, so that many are prefixes of others."""
    labels: dict[tuple[int, ...], None] = {}
    while len(labels) < count:
        labels[tuple(int(token) for token in DRAW.integers(10, 18, DRAW.integers(1, 5)))] = None
    return list(labels)


def by_sequence(model: nn.Module, ids: list[int], labels: Sequence[Sequence[int]]) -> list[float]:
    """Each label as its own unpadded sequence through the whole model."""
    out = []
    for label in labels:
        answer = [*label, EOS]
        with torch.no_grad():
            logits = model(torch.tensor([[*ids, *answer]])).logits[0, len(ids) - 1 : -1]
        out.append(torch.log_softmax(logits, -1)[range(len(answer)), answer].sum().item())
    return out


CASES = {
    "two labels of one token": [(5,), (6,)],
    "a label that is the prefix of two others": [(5, 6), (5,), (5, 6, 7)],
    "one token repeated": [(5,), (5, 5), (5, 5, 5)],
    "the same end after different beginnings": [(5, 9), (6, 9), (9,)],
    "a single label": [(5, 6, 7)],
    "160 labels": many(160),
}


@pytest.mark.parametrize("name", CASES)
def test_a_trie_scores_each_label_as_its_own_sequence_would(name: str) -> None:
    model = llama()
    labels = CASES[name]
    prompts = [prompt(length) for length in (1, 2, 33)]
    for ids, scores in zip(prompts, label_log_probs(model, prompts, [trie(*labels)] * 3), strict=True):
        np.testing.assert_allclose(scores, by_sequence(model, ids, labels), atol=1e-4, rtol=0)


def test_a_label_and_its_prefix_differ_only_in_their_last_predictions() -> None:
    tree = trie((5, 6), (5,))
    assert tree.size == 2
    assert tree.longest == 2
    assert sorted(zip(tree.edge_sources.tolist(), tree.edge_targets.tolist(), strict=True)) == [
        (0, 5), (1, EOS), (1, 6), (2, EOS),
    ]  # fmt: skip


def test_nodes_are_shared_by_labels_that_begin_alike() -> None:
    assert trie((1, 2, 3), (1, 2, 4), (1, 2)).size == 4


def test_rows_of_different_tasks_share_a_pass_and_do_not_see_each_other() -> None:
    model = llama()
    tries = [trie(*labels) for labels in CASES.values()]
    prompts = [prompt(int(length)) for length in DRAW.integers(1, 60, 24)]
    mixed = [tries[i % len(tries)] for i in range(24)]
    together = label_log_probs(model, prompts, mixed, token_budget=100_000)
    for ids, tree, scores in zip(prompts, mixed, together, strict=True):
        np.testing.assert_allclose(scores, label_log_probs(model, [ids], [tree])[0], atol=1e-4, rtol=0)


def test_the_pass_runs_the_head_on_label_positions_only() -> None:
    model = llama()
    seen: list[int] = []
    model.lm_head.register_forward_hook(lambda _m, args, _out: seen.append(len(args[0])))
    layers: list[int] = []
    model.model.register_forward_hook(lambda *_: layers.append(1))
    label_log_probs(model, [prompt(50)] * 4, [trie((5,), (6, 7))] * 4)
    assert sum(seen) == 4 * (1 + 3)
    assert layers == [1]


def test_a_head_run_in_small_parts_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model = llama()
    prompts, tries = [prompt(9), prompt(4)], [trie(*CASES["160 labels"]), trie((5,), (5, 6))]
    whole = label_log_probs(model, prompts, tries)
    monkeypatch.setitem(scoring.LOGIT_BUDGETS, "cpu", 420 * 3)
    for one, other in zip(whole, label_log_probs(model, prompts, tries), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_eager_attention_gives_the_same() -> None:
    prompts, tries = [prompt(9), prompt(30)], [trie((5,), (5, 6)), trie((7, 8), (9,))]
    for one, other in zip(
        label_log_probs(llama(), prompts, tries), label_log_probs(llama(attention="eager"), prompts, tries), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-4)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # PEFT asks for it
def test_a_model_in_training_is_scored_without_dropout_and_stays_in_training() -> None:
    model = get_peft_model(
        llama(), LoraConfig(r=4, lora_dropout=0.5, target_modules=["q_proj"], init_lora_weights=False)
    )
    model.train()
    prompts, tries = [prompt(9)], [trie((5,), (5, 6))]
    first = label_log_probs(model, prompts, tries)[0]
    assert model.training
    np.testing.assert_array_equal(first, label_log_probs(model, prompts, tries)[0])
    np.testing.assert_allclose(first, by_sequence(model.eval(), prompts[0], [(5,), (5, 6)]), atol=1e-4)


def test_bf16_logits_become_log_probabilities_in_fp32() -> None:
    head = llama().bfloat16().lm_head
    hidden = torch.randn(4, 32, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.inference_mode():
        actual = scoring._edge_log_probs(OutputHead(head), hidden, np.array([0, 1, 1, 3]), np.array([7, 8, 9, 7]))
        exact = torch.log_softmax(head(hidden).double(), -1)[[0, 1, 1, 3], [7, 8, 9, 7]]
    np.testing.assert_allclose(actual, exact.numpy(), atol=1e-5)


def test_micro_batches_hold_every_row_once_within_the_budget_widest_first() -> None:
    widths = [int(width) for width in DRAW.integers(1, 300, 200)]
    batches = list(micro_batches(widths, 1000))
    assert sorted(row for batch in batches for row in batch) == list(range(200))
    assert all(len(batch) * max(widths[row] for row in batch) <= 1000 or len(batch) == 1 for batch in batches)
    for wider, batch in pairwise(batches):
        assert min(widths[row] for row in wider) >= max(widths[row] for row in batch)


def test_a_batch_keeps_the_order_of_the_call() -> None:
    assert list(micro_batches([3, 9, 3, 8, 9], 30)) == [[1, 3, 4], [0, 2]]


def test_a_row_that_is_too_wide_is_a_batch_of_its_own() -> None:
    assert list(micro_batches([5000], 1000)) == [[0]]
    assert list(micro_batches([], 1000)) == []


def test_an_architecture_that_changes_its_logits_after_the_head_is_refused() -> None:
    model = llama()
    Backbone.of(model).check(model)
    model.register_forward_hook(lambda _m, _a, out: out.__setitem__("logits", out.logits * 0.5))
    with pytest.raises(InvalidBundle, match="changes its logits after the output head"):
        Backbone.of(model).check(model)


@pytest.mark.parametrize("length", [2, 400])
@pytest.mark.parametrize("name", CASES)
def test_the_best_label_is_found_without_scoring_every_label(name: str, length: int) -> None:
    model, tree = llama(), trie(*CASES[name])
    prompts = [prompt(length) for _ in range(12)]
    every = np.stack(label_log_probs(model, prompts, [tree] * 12))
    # Gold labels of every kind: the best, the worst, any.
    gold = np.array([*every.argmax(axis=1)[:4], *every.argmin(axis=1)[4:8], *DRAW.integers(0, len(CASES[name]), 4)])
    best, scores = best_labels(model, prompts, tree, gold)
    assert best.tolist() == every.argmax(axis=1).tolist()
    np.testing.assert_allclose(scores, every[range(12), gold], atol=1e-4, rtol=0)


def test_some_labels_alone_have_their_scores_and_bound_the_others() -> None:
    model, tree = llama(), trie(*CASES["160 labels"])
    covered = [0, 7, 90]
    part = tree.covering(covered)
    ids = prompt(9)
    (every,), (bounds,) = (label_log_probs(model, [ids], [each]) for each in (tree, part))
    np.testing.assert_allclose(bounds[covered], every[covered], atol=1e-4, rtol=0)
    assert (bounds >= every - 1e-4).all()
    assert part.size < 12 < tree.size


def test_rows_that_are_right_and_sure_need_no_second_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    model, labels = llama(), CASES["160 labels"]
    prompts = [prompt(5) for _ in range(6)]
    gold = np.array([3, 50, 7, 120, 159, 88])
    rows = [[*ids, *labels[label], EOS] for ids, label in zip(prompts, gold, strict=True)]
    ids = torch.tensor([row + [EOS] * (10 - len(row)) for row in rows])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(40):
        model(ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    passes = []

    def counted(*args, **kwargs):
        passes.append(len(args[1]))
        return label_log_probs(*args, **kwargs)

    monkeypatch.setattr(scoring, "label_log_probs", counted)
    best, _ = best_labels(model, prompts, trie(*labels), gold)
    assert best.tolist() == gold.tolist()
    assert passes == [6, 0]
