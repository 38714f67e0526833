"""The benchmark ``training_speed.py``: both sides train alike, and its FLOPs are those that torch counts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from multitask_trainer.training.batching.layouts import padded
from multitask_trainer.training.loss import RowMeanLoss
from multitask_trainer.tuning import tuning_method
from support.training_speed.bases import SHAPES, TASKS, StepSize, model_flops
from support.training_speed.combination import Combination
from support.training_speed.page import loss_difference, page_text, tokens_per_second
from support.training_speed.trial import measure

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore::FutureWarning:transformers"),
]


@pytest.mark.parametrize("method", ["LoRA", "Full"])
def test_both_sides_have_the_same_losses_in_every_step(method: str, tmp_path: Path) -> None:
    combination = Combination("tiny", method, "cpu", batch_rows=12, trainer_rows=4, steps=2, warmup=1)
    result = measure(combination, sides=("ours", "trainer"), folder=str(tmp_path))
    assert result["by_turns"]
    assert result["steps"] == 2
    assert len(result["ours"]["losses"]) == len(result["trainer"]["losses"]) == 3
    assert len(set(result["ours"]["losses"])) == 3
    difference = loss_difference(result)
    assert difference is not None
    assert difference < 1e-6
    assert result["ours"]["trained"] == result["trainer"]["trained"]
    ours = tokens_per_second(result, "ours")
    page = page_text([json.loads(json.dumps(result))], peak_tflops=1.0)
    assert f"| tiny | {method} | ours | {ours:,.0f} |" in page


@pytest.mark.parametrize("method", ["LoRA", "Full"])
def test_the_flops_of_a_step_are_those_that_torch_counts(method: str) -> None:
    shape, length, targets = SHAPES["tiny"], 64, 3
    combination = Combination("tiny", method, "cpu")
    model = tuning_method(combination.tuning, TASKS).prepare(shape.model(torch.device("cpu"), torch.float32))
    rows = [(np.arange(1, length + 2, dtype=np.int32), length + 1 - targets) for _ in range(4)]
    size = StepSize.of(rows)
    assert (size.tokens, size.targets, size.squares) == (4 * length, 4 * targets, 4 * length**2)
    (batch,) = padded(rows, batch_rows=4, token_budget=4096)
    loss = RowMeanLoss(model)
    with FlopCounterMode(display=False) as counter:
        loss(batch).backward()
    trained = sum(value.numel() for value in model.parameters() if value.requires_grad)
    # The counter sees whole squares where attention is causal, and a product of the forward pass again in backward: 14
    # FLOPs a pair and channel, 6 here. The first layer's inputs need no gradient if they are frozen.
    expected = model_flops(shape, size, trained=trained, full=method == "Full")
    attention = 6 * shape.layers * shape.width * size.squares
    assert counter.get_total_flops() == pytest.approx(expected + attention * 8 / 6, rel=0.02)
