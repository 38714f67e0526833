"""Optimizer steps by task: what belongs to a task that has no rows stays, in weights and in Adam's state."""

from __future__ import annotations

import copy
import io

import pytest
import torch

from multitask_trainer.tuning.cgc_lora import task_steps
from support import cgc_fixtures
from support.cgc_fixtures import TASKS, adamw, adapted, close, config, train, trained, tuner, weights_of

CPU = torch.device("cpu")


def owned(model, optimizer, task: int) -> dict[str, torch.Tensor]:
    """Weights and state of a task's own experts and embedding, or of the common experts."""
    found = {}
    for number, parameter in enumerate(tuner(model).owned_parameters()):
        state = optimizer.state[parameter.value]
        slices = (parameter.owners == task).nonzero()[:, 0]
        for name, value in (("weight", parameter.value), *state.items()):
            whole = value if name == "step" else value.detach().index_select(parameter.dim, slices)
            found[f"{number}.{name}"] = (whole[task] if name == "step" else whole).clone()
    return found


def same(one, other) -> bool:
    assert one.keys() == other.keys()
    return all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("fused", [True, False])
def test_a_task_without_rows_stays_bit_for_bit(fused):
    model = adapted()
    optimizer = adamw(model, fused=fused)
    train(model, [TASKS] * 3, optimizer)
    before = {task: owned(model, optimizer, task) for task in range(len(TASKS))}
    train(model, [["second"], ["second", "third"]], optimizer, seed=50)
    assert same(before[0], owned(model, optimizer, 0))
    for task in (1, 2):
        after = owned(model, optimizer, task)
        assert not any(torch.equal(value, after[name]) for name, value in before[task].items() if len(value.shape))
        assert float(after["0.step"]) == 3 + (2 if task == 1 else 1)


def test_adamw_alone_would_move_it(monkeypatch):
    monkeypatch.setattr(cgc_fixtures, "step_by_task", lambda optimizer, owned, present: optimizer.step())
    model = adapted()
    optimizer = adamw(model)
    train(model, [TASKS] * 3, optimizer)
    before = weights_of(model, 0)
    train(model, [["second"]], optimizer, seed=50)
    assert not any(torch.equal(one, other) for one, other in zip(before, weights_of(model, 0), strict=True))


def test_with_rows_of_all_tasks_it_is_adamw():
    model = adapted()
    plain = copy.deepcopy(model)
    optimizers = adamw(model), adamw(plain)
    for seed in range(5):
        for each in (model, plain):
            torch.manual_seed(seed)
            for value in each.parameters():
                if value.requires_grad:
                    value.grad = torch.randn_like(value)
        task_steps.step_by_task(optimizers[0], tuner(model).owned_parameters(), torch.ones(3, dtype=torch.bool))
        optimizers[1].step()
    for (name, value), other in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert torch.allclose(value, other, rtol=0, atol=2e-7), name


def test_a_seldom_task_moves_as_if_the_steps_without_it_had_not_been():
    """The gradients of its own weights are given, because what it shares with other tasks moves in every step."""
    models = adapted(), adapted()
    optimizers = [adamw(model) for model in models]
    generator = torch.Generator().manual_seed(0)
    for step in range(12):
        is_present = step % 4 == 3
        for number in range(2):
            if number == 1 and not is_present:
                continue
            for parameter in tuner(models[number]).owned_parameters():
                own = (parameter.owners == 2).nonzero()[:, 0]
                parameter.value.grad = torch.zeros_like(parameter.value)
                if is_present:
                    torch.manual_seed(step)
                    shape = parameter.value.index_select(parameter.dim, own).shape
                    parameter.value.grad.index_copy_(parameter.dim, own, torch.randn(shape))
            present = torch.tensor([True, bool(torch.rand((), generator=generator) < 0.5), is_present])
            task_steps.step_by_task(optimizers[number], tuner(models[number]).owned_parameters(), present)
    assert same(owned(models[0], optimizers[0], 2), owned(models[1], optimizers[1], 2))
    assert float(owned(models[0], optimizers[0], 2)["0.step"]) == 3


def test_a_saved_optimizer_goes_on_as_the_one_that_was_not_stopped():
    steps = [TASKS, ["first"], ["third", "first"], ["second"], TASKS, ["third"]]
    whole = adapted()
    train(whole, steps, adamw(whole))

    model = adapted()
    optimizer = train(model, steps[:3], adamw(model))
    file = io.BytesIO()
    torch.save({"weights": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed = adapted(seed=99)
    resumed.load_state_dict(saved["weights"])
    again = adamw(resumed)
    again.load_state_dict(saved["optimizer"])
    train(resumed, steps[3:], again, seed=3)
    for (name, value), other in zip(whole.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(value, other), name


def test_weight_decay_by_group_is_kept():
    """The decay of each group acts on its own parameters, and not in steps without the task."""
    model = trained()
    decayed = [value for name, value in model.named_parameters() if value.requires_grad and "lora_gate" not in name]
    gates = [value for name, value in model.named_parameters() if value.requires_grad and "lora_gate" in name]
    groups = [{"params": decayed, "weight_decay": 0.5}, {"params": gates, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.1, fused=True)
    before = {name: value.clone() for name, value in model.named_parameters()}
    for value in model.parameters():
        value.grad = torch.zeros_like(value) if value.requires_grad else None
    task_steps.step_by_task(optimizer, tuner(model).owned_parameters(), torch.tensor([True, False, True]))
    owners = config().layout.owners(CPU)
    for name, value in model.named_parameters():
        if "cgc_lora_A" in name:
            factor = torch.where(owners == 1, 1.0, 1 - 0.1 * 0.5)[:, None]
            close(value, before[name] * factor, 1e-6)
        elif "lora_gate" in name:
            assert torch.equal(value, before[name])


@pytest.mark.parametrize("changes", [{"specific_experts": 0, "r": 16}, {"common_experts": 0, "r": 12}])
@pytest.mark.parametrize("gate", ["Task", "Uniform"])
def test_arms_without_one_kind_of_experts_train(changes, gate):
    model = adapted(gate=gate, **changes)
    before = [value.clone() for value in model.parameters()]
    train(model, [["second"], TASKS])
    trained_ones = [value.requires_grad for value in model.parameters()]
    moved = [not torch.equal(value, old) for value, old in zip(model.parameters(), before, strict=True)]
    assert moved == trained_ones
