"""Tuning methods of others, which benchmarks compare with: what is served of a task is what was trained."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from multitask_api.resource.tuning import Tuning
from multitask_serving.engine.model.active_adapters import ActiveAdapters
from multitask_serving.engine.model.adapters import attach_adapters
from support.other_methods.method import WEIGHTS
from support.other_methods.train import METHODS
from support.training_fixtures import small_decoder

TASKS = ("a", "b", "c")


@pytest.mark.parametrize("name", METHODS)
def test_a_task_is_served_as_the_lora_that_its_rows_were_trained_with(name, tmp_path):
    tuning = Tuning.model_validate({"method": "LoRA", "rank": 16, "alpha": 32.0})
    method = METHODS[name](tuning, TASKS)
    model = method.prepare(small_decoder())
    torch.manual_seed(1)
    with torch.no_grad():
        for value in model.parameters():
            if value.requires_grad:
                value.add_(0.1 * torch.randn_like(value))
    ids = torch.arange(3 * 7).reshape(3, 7) % 61
    model.eval()
    with torch.no_grad(), method.select_tasks(model, torch.tensor([2, 0, 1])):
        trained = model(input_ids=ids).logits
    method.save(model, tmp_path)
    loras = []
    for task in range(len(TASKS)):
        layers, scaling = method.lora_of(task, load_file(tmp_path / WEIGHTS))
        loras.append({path: (a, scaling * b) for path, (a, b) in layers.items()})
    served = small_decoder().eval()
    active = ActiveAdapters(served.device)
    attach_adapters(served, loras, active)
    with torch.no_grad(), active.use([3, 1, 2]):
        logits = served(input_ids=ids).logits
    torch.testing.assert_close(logits, trained, rtol=1e-4, atol=1e-5)
    with torch.no_grad(), active.use([1, 1, 1]):
        assert not torch.allclose(served(input_ids=ids).logits, trained, atol=1e-3)


def test_the_projections_up_of_mtl_lora_part_from_each_other():
    torch.manual_seed(1)
    method = METHODS["mtl-lora"](Tuning.model_validate({"method": "LoRA", "rank": 16, "alpha": 32.0}), TASKS)
    model = method.prepare(small_decoder())
    optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], lr=1e-2)
    ids = torch.arange(3 * 7).reshape(3, 7) % 61
    for _ in range(3):
        with method.select_tasks(model, torch.tensor([2, 0, 1])):
            model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    ups = [value for name, value in model.named_parameters() if name.endswith("mtl_up")]
    assert all((up[0] - up[1]).abs().max() > 1e-4 for up in ups)
