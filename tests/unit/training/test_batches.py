from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from multitask_serving.engine.model.backbone import Backbone
from multitask_trainer.training.batching import layouts
from multitask_trainer.training.batching.dataset import EncodedDataset
from multitask_trainer.training.batching.layouts import packed, padded
from multitask_trainer.training.batching.sampler import Sampler
from multitask_trainer.training.batching.task_batches import TaskBatches
from multitask_trainer.training.loss import RowMeanLoss, target_logits

VOCABULARY = 61
LENGTHS = [(9, 1), (3, 2), (17, 5), (1, 1), (6, 12), (4, 2), (11, 1)]
"""(prompt, answer with EOS)"""


def rows(seed=1, lengths=LENGTHS):
    generator = np.random.default_rng(seed)
    return [(generator.integers(0, VOCABULARY, prompt + answer).astype(np.int32), prompt) for prompt, answer in lengths]


def loss(model, micro_batches):
    return sum(RowMeanLoss(model)(batch) for batch in micro_batches)


def by_hand(model, given):
    """Row by row, in plain words: mean over rows of the mean over target tokens."""
    means = []
    for ids, prompt in given:
        logits = model(torch.from_numpy(ids.astype(np.int64))[None]).logits[0]
        nll = -torch.log_softmax(logits.double(), -1)[torch.arange(len(ids) - 1), torch.from_numpy(ids[1:]).long()]
        means.append(nll[prompt - 1 :].mean())
    return torch.stack(means).mean()


def rows_of_targets(batch, given):
    """(N,) the row of ``given`` that each target token belongs to; the rows must differ in length."""
    positions = batch.position_ids.flatten()[batch.logit_positions]
    begins = (positions.diff() != 1) | (batch.logit_positions.diff() != 1)
    spans = torch.tensor_split(positions, (begins.nonzero().flatten() + 1).tolist())
    by_length = {len(ids): index for index, (ids, _) in enumerate(given)}
    return torch.cat([torch.full_like(span, by_length[int(span[-1]) + 2]) for span in spans])


LAYOUTS = {
    "padded, one micro-batch": partial(padded, token_budget=10_000),
    "padded, small micro-batches": partial(padded, token_budget=25),
    "padded, a row a micro-batch": partial(padded, token_budget=1),
    "packed in one sequence": partial(packed, token_budget=10_000, width=100),
    "packed in several sequences": partial(packed, token_budget=10_000, width=24),
    "packed, several micro-batches": partial(packed, token_budget=30, width=24),
    "packed, a row over the width": partial(packed, token_budget=30, width=8),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_mean_over_rows_of_the_mean_over_target_tokens(model, layout):
    given = rows()
    with torch.no_grad():
        total = float(loss(model, LAYOUTS[layout](given, batch_rows=len(given))))
        assert total == pytest.approx(float(by_hand(model, given)), abs=1e-5)


def test_padded_and_packed_give_the_same_gradient(model):
    given = rows()
    gradients = []
    for layout in ("padded, small micro-batches", "packed in several sequences"):
        model.zero_grad()
        loss(model, LAYOUTS[layout](given, batch_rows=len(given))).backward()
        gradients.append(torch.cat([value.grad.flatten() for value in model.parameters()]))
    assert torch.allclose(*gradients, atol=1e-5)
    assert gradients[0].abs().max() > 1e-3


def test_rows_that_are_wider_than_a_pack_are_padded_and_loss_and_gradient_stay(model, monkeypatch):
    monkeypatch.setattr(layouts, "GPU_MICRO_BATCH_COST", 0)
    given = rows()
    results = []
    for layout in ("padded, one micro-batch", "packed, a row over the width"):
        model.zero_grad()
        micro_batches = LAYOUTS[layout](given, batch_rows=len(given))
        total = loss(model, micro_batches)
        total.backward()
        results.append(torch.cat([total.detach()[None], *(value.grad.flatten() for value in model.parameters())]))
    assert torch.allclose(*results, atol=1e-5)
    wide = [batch for batch in micro_batches if batch.segment_ids is None]
    assert sum(len(batch.input_ids) for batch in wide) == sum(sum(lengths) - 1 > 8 for lengths in LENGTHS)
    assert {batch.input_ids.shape[1] for batch in micro_batches if batch.segment_ids is not None} == {8}


def test_a_few_long_rows_do_not_widen_the_packs_of_many_short_ones():
    generator = np.random.default_rng(0)
    lengths = [*((int(length), 2) for length in generator.integers(8, 80, 400)), (900, 2), (1200, 2), (1500, 2)]
    given = rows(lengths=lengths)
    batches = packed(given, batch_rows=403, token_budget=1 << 15, width=512, tasks=list(range(403)))
    squares = sum(batch.input_ids.numel() * batch.input_ids.shape[1] for batch in batches)
    lines = sum(sum(each) - 1 for each in lengths) * max(sum(each) - 1 for each in lengths)
    assert squares < lines / 2
    assert [int(task) for batch in batches if batch.segment_ids is None for task in batch.task_ids] == [402, 401, 400]
    assert sum(batch.tokens for batch in batches) == sum(len(ids) - 1 for ids, _ in given)
    # With few short rows another pass would take longer than it spares.
    few = packed(given[-23:], batch_rows=23, token_budget=1 << 15, width=512)
    assert [batch.segment_ids is None for batch in few] == [False]


def test_a_row_of_a_pack_does_not_see_the_row_before_it(model):
    given = rows(lengths=[(9, 3), (7, 3)])
    changed = [((given[0][0] + 5) % VOCABULARY, 9), given[1]]
    chosen = []
    for version in (given, changed):
        (batch,) = packed(version, batch_rows=2, token_budget=1000, width=32)
        assert batch.input_ids.shape == (1, 32)
        with torch.no_grad():
            logits = target_logits(Backbone.of(model), batch)
        owners = rows_of_targets(batch, version)
        chosen.append([logits[owners == row] for row in (0, 1)])
    assert torch.equal(chosen[0][1], chosen[1][1])
    assert not torch.allclose(chosen[0][0], chosen[1][0], atol=1e-3)


def test_a_row_of_a_pack_has_the_logits_it_has_alone(model):
    given = rows()
    (batch,) = packed(given, batch_rows=len(given), token_budget=1000, width=100)
    with torch.no_grad():
        logits = target_logits(Backbone.of(model), batch)
        owners = rows_of_targets(batch, given)
        for index, (ids, prompt) in enumerate(given):
            alone = model(torch.from_numpy(ids.astype(np.int64))[None]).logits[0, prompt - 1 : -1]
            assert torch.allclose(logits[owners == index], alone, atol=1e-5)


def test_a_long_answer_does_not_outweigh_a_label():
    given = rows()
    weights = {}
    for batch in padded(given, batch_rows=len(LENGTHS), token_budget=30):
        owners = rows_of_targets(batch, given)
        weights |= {int(row): float(batch.weights[owners == row].sum()) for row in owners.unique()}
    assert weights == pytest.approx(dict.fromkeys(range(len(LENGTHS)), 1 / len(LENGTHS)))


def test_micro_batches_keep_to_their_budget_and_hold_every_row_once():
    given = rows(lengths=[(length, 2) for length in range(1, 60)])
    for batches in (
        padded(given, batch_rows=59, token_budget=200),
        packed(given, batch_rows=59, token_budget=200, width=64),
    ):
        assert all(batch.input_ids.numel() <= 200 for batch in batches)
        owners = [rows_of_targets(batch, given).unique() for batch in batches]
        assert sorted(torch.cat(owners).tolist()) == list(range(59))
        assert sum(batch.tokens for batch in batches) == sum(len(ids) - 1 for ids, _ in given)


def test_packs_are_nearly_full():
    generator = np.random.default_rng(0)
    given = rows(lengths=[(int(length), 2) for length in generator.integers(5, 60, 400)])
    batches = packed(given, batch_rows=400, token_budget=1 << 20, width=512)
    assert sum(batch.tokens for batch in batches) / sum(batch.input_ids.numel() for batch in batches) > 0.95


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_token_has_the_task_of_its_row(layout):
    """Rows of task k have k as their first token; the layouts sort them by length."""
    lengths = [(9, 1), (3, 2), (17, 5), (2, 1), (6, 12), (4, 2), (11, 1)]
    given = rows(lengths=lengths)
    tasks = [3, 1, 0, 2, 1, 3, 0]
    for (ids, _), task in zip(given, tasks, strict=True):
        ids[0] = task
    seen = []
    for batch in LAYOUTS[layout](given, batch_rows=len(given), tasks=tasks):
        per_token = (
            batch.task_ids if batch.segment_ids is not None else batch.task_ids[:, None].expand_as(batch.input_ids)
        )
        segments = batch.segment_ids if batch.segment_ids is not None else torch.ones_like(batch.input_ids)
        assert batch.task_ids.dtype == torch.int64
        for row in range(len(batch.input_ids)):
            for segment in set(segments[row].tolist()) - {0}:
                columns = segments[row] == segment
                (task,) = set(per_token[row][columns].tolist())
                assert task == batch.input_ids[row][columns][0]
                seen.append(task)
    assert sorted(seen) == sorted(tasks)


@pytest.mark.parametrize("pack", [False, True])
def test_processes_share_a_batch_and_rows_keep_their_tasks(pack):
    sampler = Sampler({"a": 0.5, "b": 0.4, "c": 0.1}, {"a": 30, "b": 20, "c": 9}, batch_rows=6, seed=2)
    datasets = [
        EncodedDataset.of([[number] * (2 + row % 7) for row in range(size)], [[9]] * size)
        for number, size in enumerate((30, 20, 9))
    ]
    absent = 0
    for step in range(10):
        drawn = sampler.at(step).tasks.tolist()
        seen = []
        for process in range(2):
            batches = TaskBatches(sampler, datasets, 6, 12, pack=pack, process=process, processes=2)
            assert batches.present(step).tolist() == [task in drawn for task in range(3)]
            for batch in batches.at(step):
                first = batch.position_ids == 0
                ids = batch.task_ids if pack else batch.task_ids[:, None].expand_as(first)
                filled = first if batch.segment_ids is None else first & (batch.segment_ids > 0)
                assert ids[filled].tolist() == batch.input_ids[filled].tolist()
                seen += ids[filled].tolist()
        assert sorted(seen) == sorted(drawn)
        absent += len({0, 1, 2} - set(drawn))
    assert absent > 0
