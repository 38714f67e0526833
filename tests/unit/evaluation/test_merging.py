"""An adapter merged into models of many families: what is saved and read again computes what base and adapter do."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from multitask_api.bundle import Adapter, ServedModel
from multitask_serving.engine.model.active_adapters import ActiveAdapters
from multitask_serving.engine.model.adapters import attach_adapters
from multitask_serving.engine.model.loading import load_model, read_adapter
from multitask_trainer.base_model.loading import load_base
from multitask_trainer.errors import MergeChangesModel
from multitask_trainer.export import merging
from multitask_trainer.export.merging import merge_adapter
from multitask_trainer.tuning.targets import find_targets
from support.base_families import family
from support.engine_builders import tokenizer

FAMILIES = ("llama", "llama-tied", "gpt2", "gemma3-multimodal", "mixtral", "qwen3-moe", "deepseek-v3")
IDS = torch.randint(3, 410, (2, 9), generator=torch.Generator().manual_seed(4))
SCALING = 0.5


def logits(model: nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=IDS, use_cache=False).logits.float()


@pytest.fixture
def folder(tmp_path, request):
    """``base/``, of the family that the test names, and a random ``adapter/`` of everything that can be adapted."""
    model = family(request.param)
    model.save_pretrained(tmp_path / "base", max_shard_size="40KB")
    tokenizer().save_pretrained(tmp_path / "base")
    targets, tensors = find_targets(model), {}
    generator = torch.Generator().manual_seed(1)
    for path in (*targets.linear, *targets.experts):
        parent, _, name = path.rpartition(".")
        item = getattr(model.get_submodule(parent), name)
        shape = item.shape if isinstance(item, nn.Parameter) else item.weight.shape
        outside, inside = shape[-2:] if request.param != "gpt2" else reversed(shape)
        tensors[f"{path}.A"] = torch.randn(*shape[:-2], 4, inside, generator=generator) * 0.2
        tensors[f"{path}.B"] = torch.randn(*shape[:-2], outside, 4, generator=generator) * 0.2
    (tmp_path / "adapter").mkdir()
    save_file(tensors, tmp_path / "adapter" / "adapter.safetensors")
    return tmp_path


ADAPTER = Adapter(name="one", path="adapter", rank=4, scaling=SCALING)


@pytest.mark.parametrize("folder", FAMILIES, indirect=True)
@pytest.mark.parametrize(("precision", "dtype", "tolerance"), [("fp32", "float32", 1e-4), ("bf16", "bfloat16", 0.4)])
def test_a_merged_model_computes_what_base_and_adapter_do(folder, precision, dtype, tolerance):
    unmerged = load_base(folder / "base").eval()
    base = logits(unmerged)
    active = ActiveAdapters(unmerged.device)
    attach_adapters(unmerged, [read_adapter(folder, ADAPTER)], active)
    with active.use([1, 1]):
        expected = logits(unmerged)
    merge_adapter(folder / "base", folder, ADAPTER, folder / "merged", precision)
    served = load_model(folder, ServedModel(name="m", path="merged", dtype=dtype))
    torch.testing.assert_close(logits(served.model), expected, atol=tolerance, rtol=0)
    assert (expected - base).abs().max() > 2
    assert served.model.config.get_text_config().use_cache


@pytest.mark.parametrize("folder", ["gemma3-multimodal", "llama-tied", "mixtral"], indirect=True)
def test_the_merged_files_have_the_names_of_the_bases_files(folder):
    merge_adapter(folder / "base", folder, ADAPTER, folder / "merged", "bf16")
    tensors = [
        {name: value for path in (folder / part).glob("*.safetensors") for name, value in load_file(path).items()}
        for part in ("base", "merged")
    ]
    assert tensors[0].keys() == tensors[1].keys()
    assert {value.dtype for value in tensors[1].values()} == {torch.bfloat16}
    assert "transformers_version" not in json.loads((folder / "merged" / "config.json").read_text())
    assert (folder / "merged" / "tokenizer.json").exists()


@pytest.mark.parametrize("folder", ["llama", "gemma3-multimodal"], indirect=True)
@pytest.mark.parametrize(
    ("break_", "message"),
    [
        ("add_to_weights", "the adapter, merged, changes logits by"),
        ("save_served_model", "the adapter, merged, saved and read again, changes logits by"),
    ],
)
def test_weights_that_are_lost_on_the_way_are_noticed(folder, monkeypatch, break_, message):
    right = getattr(merging, break_)

    def wrong(model, *arguments):
        if break_ == "save_served_model":
            with torch.no_grad():
                next(value for name, value in model.named_parameters() if "up_proj" in name).mul_(-1)
            right(model, *arguments)

    monkeypatch.setattr(merging, break_, wrong)
    with pytest.raises(MergeChangesModel, match=message):
        merge_adapter(folder / "base", folder, ADAPTER, folder / "merged", "bf16")
