from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file

from multitask_serving.engine.errors import InvalidBundle
from multitask_serving.engine.lora import AdapterIndex, RowLoraLinear, attach
from multitask_serving.engine.model import load_model, read_adapter
from support.engine_builders import delta, llama, merged, served, write_bundle

SCALING = 0.5
RANKS = (1, 3, 4, 8)
TARGETS = (("q_proj", "v_proj"), ("down_proj",), ("q_proj", "down_proj"), ("q_proj", "k_proj", "v_proj", "o_proj"))


@pytest.fixture(scope="module")
def deltas():
    return [
        delta(llama(), rank, seed, targets) for seed, (rank, targets) in enumerate(zip(RANKS, TARGETS, strict=True))
    ]


@pytest.fixture(scope="module")
def wrapped(deltas):
    """A model with four adapters of different ranks on different layers, and its index."""
    model = llama()
    index = AdapterIndex(torch.device("cpu"))
    scaled = [{path: (a, b * SCALING) for path, (a, b) in one.items()} for one in deltas]
    attach(model, scaled, index)
    return model, index


def logits(model, ids: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=ids).logits


def test_each_row_of_a_mixed_batch_is_the_row_of_the_merged_model(wrapped, deltas) -> None:
    model, index = wrapped
    draw = np.random.default_rng(1)
    merges = [llama(), *(merged(llama(), one, SCALING) for one in deltas)]
    # Among the shapes: batch size equal to sequence length, one row, one column.
    for rows, length in ((6, 6), (1, 9), (12, 1), (32, 20), (5, 5)):
        ids = torch.from_numpy(draw.integers(3, 420, (rows, length)))
        numbers = [int(number) for number in draw.integers(0, 5, rows)]
        with index.use(numbers):
            got = logits(model, ids)
        for row, number in enumerate(numbers):
            torch.testing.assert_close(got[row], logits(merges[number], ids[row : row + 1])[0], atol=1e-4, rtol=0)


def test_rows_with_one_adapter_take_the_short_way_and_agree(wrapped) -> None:
    model, index = wrapped
    ids = torch.randint(3, 420, (4, 7), generator=torch.Generator().manual_seed(0))
    with index.use([3, 3, 3, 3]):
        uniform = logits(model, ids)
    with index.use([3, 3, 3, 0]):
        mixed = logits(model, ids)
    torch.testing.assert_close(uniform[:3], mixed[:3], atol=1e-4, rtol=0)
    assert (uniform[3] - mixed[3]).abs().max() > 0.1


def test_outside_of_use_and_for_number_zero_the_model_is_the_base(wrapped) -> None:
    model, index = wrapped
    ids = torch.randint(3, 420, (2, 7), generator=torch.Generator().manual_seed(0))
    base = logits(llama(), ids)
    with index.use([0, 0]):
        torch.testing.assert_close(logits(model, ids), base, atol=0, rtol=0)
    with pytest.raises(ZeroDivisionError), index.use([1, 2]):
        1 / 0  # noqa: B018
    torch.testing.assert_close(logits(model, ids), base, atol=0, rtol=0)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # PEFT asks for it
def test_it_computes_what_peft_computes(wrapped, deltas) -> None:
    model, index = wrapped
    ids = torch.randint(3, 420, (3, 11), generator=torch.Generator().manual_seed(0))
    for number, (one, rank, targets) in enumerate(zip(deltas, RANKS, TARGETS, strict=True), start=1):
        config = LoraConfig(r=rank, lora_alpha=rank * SCALING, target_modules=list(targets))
        reference = get_peft_model(llama(), config)
        with torch.no_grad():
            for path, (a, b) in one.items():
                layer = reference.base_model.model.get_submodule(path)
                layer.lora_A["default"].weight.copy_(a)
                layer.lora_B["default"].weight.copy_(b)
        with index.use([number] * 3):
            torch.testing.assert_close(logits(model, ids), logits(reference.eval(), ids), atol=1e-4, rtol=0)


def test_adapters_are_padded_with_zeros_to_the_largest_rank(wrapped, deltas) -> None:
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
        ("model.norm", (2, 32), (32, 2), "only linear layers below the output head"),
        ("lm_head", (2, 32), (420, 2), "only linear layers below the output head"),
        ("model.layers.0.mlp.up_proj", (2, 30), (64, 2), r"A \(2, 30\) and B \(64, 2\)"),
        ("model.layers.0.mlp.up_proj", (2, 32), (64, 3), r"the layer takes \(r, 32\) and \(64, r\)"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(path: str, a, b, message: str) -> None:
    with pytest.raises(InvalidBundle, match=message):
        attach(llama(), [{path: (torch.ones(a), torch.ones(b))}], AdapterIndex(torch.device("cpu")))


def test_a_loaded_bundle_has_the_adapters_with_their_scaling(tmp_path: Path, deltas) -> None:
    adapters = {"base": {"one": deltas[1], "two": deltas[3]}}
    tasks = [served("t", "{a}", labels=["x", "y"])]
    bundle = write_bundle(tmp_path, tasks, models={"base": llama()}, adapters=adapters, scaling=SCALING)
    loaded = load_model(tmp_path, bundle.models[0])
    assert loaded.adapters == {None: 0, "one": 1, "two": 2}
    ids = torch.randint(3, 420, (1, 9), generator=torch.Generator().manual_seed(0))
    with loaded.using(["two"]):
        expected = logits(merged(llama(), deltas[3], SCALING), ids)
        torch.testing.assert_close(logits(loaded.model, ids), expected, atol=1e-4, rtol=0)
    assert load_model(tmp_path, bundle.models[0], adapters=["two"]).adapters == {None: 0, "two": 1}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"x.A": torch.ones(1, 2)}, "every layer needs exactly an A and a B"),
        ({"x.A": torch.ones(1, 2), "x.B": torch.ones(2, 1), "x.C": torch.ones(1)}, "found x.A, x.B, x.C"),
        (None, "the adapter cannot be read"),
    ],
)
def test_a_broken_adapter_file_is_refused(tmp_path: Path, deltas, tensors, message: str) -> None:
    tasks = [served("t", "{a}", labels=["x", "y"])]
    bundle = write_bundle(tmp_path, tasks, models={"base": llama()}, adapters={"base": {"one": deltas[1]}})
    file = tmp_path / "adapters" / "base" / "one" / "adapter.safetensors"
    if tensors is None:
        file.write_bytes(b"not tensors")
    else:
        save_file(tensors, file)
    with pytest.raises(InvalidBundle, match=message):
        read_adapter(tmp_path, bundle.models[0].adapters[0])


def test_a_path_out_of_the_bundle_is_refused(tmp_path: Path, deltas) -> None:
    tasks = [served("t", "{a}", labels=["x", "y"])]
    bundle = write_bundle(tmp_path, tasks, models={"base": llama()}, adapters={"base": {"one": deltas[1]}})
    away = bundle.models[0].adapters[0].model_copy(update={"path": "../elsewhere"})
    with pytest.raises(InvalidBundle, match="leads out of the bundle"):
        read_adapter(tmp_path, away)
