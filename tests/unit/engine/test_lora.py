from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file

from multitask_serving.engine.errors import InvalidBundle
from multitask_serving.engine.model.active_adapters import ActiveAdapters
from multitask_serving.engine.model.adapters import attach_adapters
from multitask_serving.engine.model.loading import load_model, read_adapter
from multitask_serving.engine.model.lora import RowLoraLinear
from support.engine_builders import llama, merged, random_adapter, served_task, write_bundle

SCALING = 0.5
RANKS = (1, 3, 4, 8)
TARGETS = (("q_proj", "v_proj"), ("down_proj",), ("q_proj", "down_proj"), ("q_proj", "k_proj", "v_proj", "o_proj"))


@pytest.fixture(scope="module")
def adapters():
    return [
        random_adapter(llama(), rank, seed, targets)
        for seed, (rank, targets) in enumerate(zip(RANKS, TARGETS, strict=True))
    ]


@pytest.fixture(scope="module")
def wrapped(adapters):
    """A model with four adapters of different ranks on different layers, and what chooses among them."""
    model = llama()
    active = ActiveAdapters(torch.device("cpu"))
    scaled = [{path: (a, b * SCALING) for path, (a, b) in one.items()} for one in adapters]
    attach_adapters(model, scaled, active)
    return model, active


def logits(model, ids: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=ids).logits


def test_each_row_of_a_mixed_batch_is_the_row_of_the_merged_model(wrapped, adapters) -> None:
    model, active = wrapped
    draw = np.random.default_rng(1)
    merges = [llama(), *(merged(llama(), one, SCALING) for one in adapters)]
    # Among the shapes: batch size equal to sequence length, one row, one column.
    for rows, length in ((6, 6), (1, 9), (12, 1), (32, 20), (5, 5)):
        ids = torch.from_numpy(draw.integers(3, 420, (rows, length)))
        numbers = [int(number) for number in draw.integers(0, 5, rows)]
        with active.use(numbers):
            actual = logits(model, ids)
        for row, number in enumerate(numbers):
            torch.testing.assert_close(actual[row], logits(merges[number], ids[row : row + 1])[0], atol=1e-4, rtol=0)


def test_rows_that_share_one_adapter_agree_with_a_mixed_batch(wrapped) -> None:
    model, active = wrapped
    ids = torch.randint(3, 420, (4, 7), generator=torch.Generator().manual_seed(0))
    with active.use([3, 3, 3, 3]):
        shared = logits(model, ids)
    with active.use([3, 3, 3, 0]):
        mixed = logits(model, ids)
    torch.testing.assert_close(shared[:3], mixed[:3], atol=1e-4, rtol=0)
    assert (shared[3] - mixed[3]).abs().max() > 0.1


def test_outside_of_use_and_for_number_zero_the_model_is_the_base(wrapped) -> None:
    model, active = wrapped
    ids = torch.randint(3, 420, (2, 7), generator=torch.Generator().manual_seed(0))
    base = logits(llama(), ids)
    with active.use([0, 0]):
        torch.testing.assert_close(logits(model, ids), base, atol=0, rtol=0)
    with pytest.raises(ZeroDivisionError), active.use([1, 2]):
        1 / 0  # noqa: B018
    torch.testing.assert_close(logits(model, ids), base, atol=0, rtol=0)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # PEFT asks for it
def test_it_computes_what_peft_computes(wrapped, adapters) -> None:
    model, active = wrapped
    ids = torch.randint(3, 420, (3, 11), generator=torch.Generator().manual_seed(0))
    for number, (one, rank, targets) in enumerate(zip(adapters, RANKS, TARGETS, strict=True), start=1):
        config = LoraConfig(r=rank, lora_alpha=rank * SCALING, target_modules=list(targets))
        reference = get_peft_model(llama(), config)
        with torch.no_grad():
            for path, (a, b) in one.items():
                layer = reference.base_model.model.get_submodule(path)
                layer.lora_A["default"].weight.copy_(a)
                layer.lora_B["default"].weight.copy_(b)
        with active.use([number] * 3):
            torch.testing.assert_close(logits(model, ids), logits(reference.eval(), ids), atol=1e-4, rtol=0)


def test_adapters_are_padded_with_zeros_to_the_largest_rank(wrapped, adapters) -> None:
    layer = wrapped[0].model.layers[0].self_attn.q_proj
    assert isinstance(layer, RowLoraLinear)
    assert layer.A.shape == (5, 8, 32)
    assert layer.B.shape == (5, 32, 8)
    assert not layer.A[0].any()
    assert not layer.A[1, 1:].any()
    assert not layer.A[2].any()
    assert isinstance(wrapped[0].model.layers[0].mlp.up_proj, torch.nn.Linear)


@pytest.mark.parametrize(
    ("path", "a", "b", "message"),
    [
        ("model.layers.9.mlp.up_proj", (2, 32), (64, 2), "'model.layers.9.mlp.up_proj', which the model does not have"),
        ("model.norm", (2, 32), (32, 2), "only linear layers and stacked expert weights below the output head"),
        ("lm_head", (2, 32), (420, 2), "only linear layers and stacked expert weights below the output head"),
        ("model.layers.0.mlp.up_proj", (2, 30), (64, 2), r"A \(2, 30\) and B \(64, 2\)"),
        ("model.layers.0.mlp.up_proj", (2, 32), (64, 3), r"the layer takes \(r, 32\) and \(64, r\)"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(path: str, a, b, message: str) -> None:
    with pytest.raises(InvalidBundle, match=message):
        attach_adapters(llama(), [{path: (torch.ones(a), torch.ones(b))}], ActiveAdapters(torch.device("cpu")))


def test_a_loaded_bundle_has_the_adapters_with_their_scaling(tmp_path: Path, adapters) -> None:
    named = {"base": {"one": adapters[1], "two": adapters[3]}}
    tasks = [served_task("t", "{a}", labels=["x", "y"])]
    bundle = write_bundle(tmp_path, tasks, models={"base": llama()}, adapters=named, scaling=SCALING)
    loaded = load_model(tmp_path, bundle.models[0])
    assert loaded.adapter_numbers == {None: 0, "one": 1, "two": 2}
    ids = torch.randint(3, 420, (1, 9), generator=torch.Generator().manual_seed(0))
    with loaded.use_adapters(["two"]):
        expected = logits(merged(llama(), adapters[3], SCALING), ids)
        torch.testing.assert_close(logits(loaded.model, ids), expected, atol=1e-4, rtol=0)
    assert load_model(tmp_path, bundle.models[0], adapters=["two"]).adapter_numbers == {None: 0, "two": 1}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"x.A": torch.ones(1, 2)}, "every layer needs exactly an A and a B"),
        ({"x.A": torch.ones(1, 2), "x.B": torch.ones(2, 1), "x.C": torch.ones(1)}, "the file has x.A, x.B, x.C"),
        (None, "the adapter cannot be read"),
    ],
)
def test_a_broken_adapter_file_is_refused(tmp_path: Path, adapters, tensors, message: str) -> None:
    tasks = [served_task("t", "{a}", labels=["x", "y"])]
    bundle = write_bundle(tmp_path, tasks, models={"base": llama()}, adapters={"base": {"one": adapters[1]}})
    file = tmp_path / "adapters" / "base" / "one" / "adapter.safetensors"
    if tensors is None:
        file.write_bytes(b"not tensors")
    else:
        save_file(tensors, file)
    with pytest.raises(InvalidBundle, match=message):
        read_adapter(tmp_path, bundle.models[0].adapters[0])


def test_a_path_outside_the_bundle_is_refused(tmp_path: Path, adapters) -> None:
    tasks = [served_task("t", "{a}", labels=["x", "y"])]
    bundle = write_bundle(tmp_path, tasks, models={"base": llama()}, adapters={"base": {"one": adapters[1]}})
    away = bundle.models[0].adapters[0].model_copy(update={"path": "../elsewhere"})
    with pytest.raises(InvalidBundle, match="is outside the bundle"):
        read_adapter(tmp_path, away)
