"""Builders for tests of CGC-LoRA, the equation of a layer written out in fp64, and checks that hold for every model."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from multitask_trainer.tuning.cgc_lora import CgcLoraConfig, CgcLoraLinear, CgcLoraModel, register
from multitask_trainer.tuning.cgc_lora.task_steps import step_by_task
from support.training_fixtures import small_decoder

TASKS = ("first", "second", "third")
LAYERS = ["q_proj", "v_proj", "gate_proj", "down_proj"]
WIDTH = 10


def config(**changes: object) -> CgcLoraConfig:
    """Three tasks, two common experts and two of each task, of rank 2 each."""
    settings = {"tasks": list(TASKS), "r": 16, "lora_alpha": 24, "common_experts": 2, "specific_experts": 2}
    return CgcLoraConfig(**settings | {"target_modules": LAYERS, "task_type": "CAUSAL_LM"} | changes)


def adapted(base: nn.Module | None = None, *, seed: int = 3, **changes: object) -> PeftModel:
    """A small decoder with CGC-LoRA, as it begins."""
    register()
    base = base or small_decoder()
    torch.manual_seed(seed)
    return get_peft_model(base, config(**changes)).eval()


def trained(base: nn.Module | None = None, *, steps: int = 6, **changes: object) -> PeftModel:
    """The same after some steps on rows of all tasks, so that experts and gates differ."""
    model = adapted(base, **changes)
    train(model, [TASKS] * steps)
    return model


def tuner(model: nn.Module) -> CgcLoraModel:
    return model.base_model


def token_ids(rows: int, tokens: int = WIDTH, *, seed: int = 1) -> Tensor:
    return torch.randint(0, 61, (rows, tokens), generator=torch.Generator().manual_seed(seed))


def adamw(model: nn.Module, **changes: object) -> torch.optim.AdamW:
    """Fused, with weight decay, as the training loop makes it."""
    parameters = [value for value in model.parameters() if value.requires_grad]
    return torch.optim.AdamW(parameters, **{"lr": 2e-2, "weight_decay": 0.1, "fused": True} | changes)


def train(
    model: nn.Module, steps: Sequence[Sequence[str]], optimizer: torch.optim.AdamW | None = None, *, seed: int = 0
) -> torch.optim.AdamW:
    """One step for each of ``steps``, which name the tasks of two rows each; the rows of a step follow from its names.

    Every task predicts other tokens, so that what tasks learn differs.
    """
    optimizer = optimizer or adamw(model)
    every = tuner(model).config_of().tasks
    for number, names in enumerate(steps):
        rows = [name for name in names for _ in range(2)]
        ids = token_ids(len(rows), seed=seed + number)
        shifts = torch.tensor([7 * every.index(name) + 3 for name in rows])
        with model.select_tasks(rows):
            logits = model(input_ids=ids).logits
            cross_entropy(logits.flatten(0, 1), ((ids + shifts[:, None]) % 61).flatten()).backward()
        present = torch.tensor([name in names for name in every])
        step_by_task(optimizer, tuner(model).owned_parameters(), present)
        optimizer.zero_grad(set_to_none=True)
    return optimizer


def weights_of(model: nn.Module, task: int) -> list[Tensor]:
    """The slices of all parameters that belong to a task; with the number of tasks, those of all tasks."""
    return [
        parameter.value.detach().index_select(parameter.dim, (parameter.owners == task).nonzero()[:, 0])
        for parameter in tuner(model).owned_parameters()
    ]


def written_out(layer: CgcLoraLinear, embedding: Tensor | None, x: Tensor, tasks: Sequence[int]) -> Tensor:
    """The layer's output by the equation, row by row and expert by expert, in fp64.

    x (rows, tokens, in) → (rows, tokens, out). The settings are those of `config`, written here once more.
    """
    common, specific, alpha, total = 2, 2, 24, 16
    a, b = layer.cgc_lora_A["default"].detach().double(), layer.cgc_lora_B["default"].detach().double()
    rank = len(a) // (common + len(TASKS) * specific)
    experts = [(a[i : i + rank], b[:, i : i + rank]) for i in range(0, len(a), rank)]
    base = copy.deepcopy(layer.get_base_layer()).double()
    rows = []
    for row, task in zip(x.double(), tasks, strict=True):
        own = experts[:common] + experts[common + task * specific : common + (task + 1) * specific]
        if embedding is None:
            weights = [1 / len(own)] * len(own)
        else:
            gate = layer.cgc_lora_gate["default"].detach().double()
            scores = [float(torch.exp(gate[i] @ embedding.detach()[task].double())) for i in range(common + specific)]
            weights = [score / sum(scores) for score in scores]
        delta = sum(w * (row @ down.T @ up.T) for w, (down, up) in zip(weights, own, strict=True))
        rows.append(base(row) + alpha / total * delta)
    return torch.stack(rows).detach()


def assert_equation(model: PeftModel, tasks: Sequence[int], tokens: int) -> None:
    """Every layer computes the equation for rows of ``tasks``."""
    embeddings = tuner(model).cgc_lora_task_embedding
    embedding = embeddings.get("default")
    for number, layer in enumerate(tuner(model).expert_layers("default")):
        generator = torch.Generator().manual_seed(number)
        x = torch.randn(len(tasks), tokens, layer.in_features, generator=generator)
        with torch.no_grad(), model.select_tasks(torch.tensor(tasks)):
            close(layer(x), written_out(layer, embedding, x, tasks))


def assert_budget(model: PeftModel) -> None:
    """As many trained weights as plain LoRA of the same rank, and the gates."""
    settings = LoraConfig(r=16, target_modules=LAYERS, task_type="CAUSAL_LM")
    lora = sum(value.numel() for value in get_peft_model(small_decoder(), settings).parameters() if value.requires_grad)
    sizes = {name: value.numel() for name, value in model.named_parameters() if value.requires_grad}
    gates = sum(size for name, size in sizes.items() if "gate." in name or "embedding" in name)
    assert sum(sizes.values()) - gates == lora
    assert gates == len(TASKS) * 8 + 8 * 4 * 8  # e (T, 8), and W_g (4, 8) of each of eight layers


def assert_merged(model: PeftModel) -> None:
    """Merging a task gives what its rows had; taking it out again gives the base back."""
    ids = token_ids(len(TASKS))
    before = {name: value.clone() for name, value in model.named_parameters() if "base_layer" in name}
    with torch.no_grad(), model.select_tasks(TASKS):
        live = model(input_ids=ids).logits
    for number, task in enumerate(TASKS):
        with torch.no_grad():
            with model.select_tasks(task):
                model.merge_adapter()
            close(model(input_ids=ids).logits[number], live[number])
            model.unmerge_adapter()
    for name, value in model.named_parameters():
        if name in before:
            assert torch.allclose(value, before[name], atol=1e-6)


def close(actual: Tensor, expected: Tensor, relative: float = 1e-5) -> None:
    """Equal to ``relative`` of the largest value."""
    actual, expected = actual.detach().double(), expected.detach().double()
    difference = float((actual - expected).abs().max() / expected.abs().max())
    assert difference <= relative, f"they differ by {difference:.2g} of the largest value"
