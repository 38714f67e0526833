"""Small real models, tokenizers and bundles for the engine's tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from multitask_api.bundle import Adapter, Bundle, GenerationSettings, LabelIds, PromptPiece, ServedModel, ServedTask
from multitask_serving.engine.prompt.encoding import compile_labels, compile_pieces

TEXT = [
    "How urgent is this message? It is very urgent, please answer at once.",
    "My parcel has not arrived and the card was charged twice. Urgency: low medium high",
    "Der Kunde möchte sein Geld zurück. 顾客想退款。 紧急程度：高 😀 naïve café",
    "The quick brown fox asks whether the invoice is right. refund billing delivery other",
] * 8


@cache
def tokenizer(vocabulary: int = 420) -> PreTrainedTokenizerFast:
    """A byte-level BPE with <pad>, <bos>, <eos>."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(
        TEXT,
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=["<pad>", "<bos>", "<eos>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>")


def llama(
    seed: int = 0,
    *,
    hidden: int = 32,
    layers: int = 2,
    heads: int = 4,
    kv_heads: int = 2,
    vocabulary: int = 420,
    attention: str = "sdpa",
) -> LlamaForCausalLM:
    """A random Llama in eval mode; weights large enough that its predictions differ from place to place."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=1024,
        initializer_range=0.25,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        attn_implementation=attention,
    )
    return LlamaForCausalLM(config).eval()


def random_adapter(
    model: LlamaForCausalLM, rank: int, seed: int, targets: Sequence[str] = ("q_proj", "v_proj", "down_proj")
):
    """A random A and B for each linear layer whose name ends in one of ``targets``."""
    generator = torch.Generator().manual_seed(seed)
    out: dict[str, tuple[Tensor, Tensor]] = {}
    for path, layer in model.named_modules():
        if isinstance(layer, torch.nn.Linear) and path.endswith(tuple(targets)):
            out[path] = (
                torch.randn(rank, layer.in_features, generator=generator) * 0.3,
                torch.randn(layer.out_features, rank, generator=generator) * 0.3,
            )
    return out


def served_task(
    name: str,
    prompt: str,
    *,
    labels: Sequence[str] = (),
    model: str = "base",
    adapter: str | None = None,
    max_length: int = 256,
    max_new_tokens: int = 12,
    stop: Sequence[str] = (),
) -> ServedTask:
    """A classification task when there are labels, a generation task otherwise."""
    pieces: tuple[PromptPiece, ...] = compile_pieces(prompt, tokenizer())
    label_ids: tuple[LabelIds, ...] = compile_labels(labels, tokenizer(), pieces)
    settings = None if labels else GenerationSettings(max_new_tokens=max_new_tokens, stop=tuple(stop))
    return ServedTask(
        name=name,
        type="Classification" if labels else "Generation",
        model=model,
        adapter=adapter,
        pieces=pieces,
        bos=(1,),
        eos=2,
        max_length=max_length,
        labels=label_ids,
        generation=settings,
    )


def write_bundle(
    folder: Path,
    tasks: Sequence[ServedTask],
    *,
    models: Mapping[str, LlamaForCausalLM],
    adapters: Mapping[str, Mapping[str, Mapping[str, tuple[Tensor, Tensor]]]] | None = None,
    scaling: float = 0.5,
) -> Bundle:
    """A bundle folder; ``adapters`` is model → adapter → layer → (A, B)."""
    described = []
    for name, model in models.items():
        model.save_pretrained(folder / "models" / name)
        tokenizer().save_pretrained(folder / "models" / name)
        listed = []
        for adapter, layers in (adapters or {}).get(name, {}).items():
            adapter_folder = folder / "adapters" / name / adapter
            adapter_folder.mkdir(parents=True)
            tensors = {
                f"{path}.{part}": tensor for path, ab in layers.items() for part, tensor in zip("AB", ab, strict=True)
            }
            save_file(tensors, adapter_folder / "adapter.safetensors")
            rank = next(iter(layers.values()))[0].shape[0]
            listed.append(Adapter(name=adapter, path=f"adapters/{name}/{adapter}", rank=rank, scaling=scaling))
        described.append(ServedModel(name=name, path=f"models/{name}", dtype="float32", adapters=tuple(listed)))
    bundle = Bundle(revision="test", models=tuple(described), tasks=tuple(tasks))
    (folder / "bundle.json").write_text(bundle.model_dump_json(by_alias=True))
    return bundle


def merged(model: LlamaForCausalLM, layers: Mapping[str, tuple[Tensor, Tensor]], scaling: float) -> LlamaForCausalLM:
    """The model with a delta added to its weights, in place."""
    with torch.no_grad():
        for path, (a, b) in layers.items():
            model.get_submodule(path).weight += scaling * (b @ a)
    return model
