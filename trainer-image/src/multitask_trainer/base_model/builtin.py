"""``builtin://SIZE``: a randomly initialised Llama-style decoder, and a byte-level BPE made from the tasks' text."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from multitask_trainer.errors import StageError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

PAD, BOS, EOS = "<|pad|>", "<|bos|>", "<|eos|>"
MAX_POSITIONS = 4096
"""``max_position_embeddings`` of every size."""


@dataclass(frozen=True)
class Size:
    """The shape of a decoder; ``vocabulary`` is an upper bound, little text makes less."""

    width: int
    layers: int
    heads: int
    feed_forward: int
    vocabulary: int


SIZES = {
    "micro": Size(width=64, layers=2, heads=4, feed_forward=160, vocabulary=512),
    "tiny": Size(width=96, layers=2, heads=4, feed_forward=256, vocabulary=4096),
    "small": Size(width=128, layers=4, heads=4, feed_forward=352, vocabulary=4096),
    "50m": Size(width=512, layers=12, heads=8, feed_forward=1408, vocabulary=16384),
    "500m": Size(width=1280, layers=24, heads=20, feed_forward=3456, vocabulary=32768),
}


def size_of(name: str) -> Size:
    """The size called ``name``. Raises `StageError` that lists the sizes."""
    size = SIZES.get(name)
    if size is None:
        raise StageError(f"baseModel.uri: builtin://{name}: there is no such size; use one of {', '.join(SIZES)}")
    return size


def make_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE: any text of any language round-trips, digits stand alone, a text begins with BOS.

    The same texts give the same tokenizer.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, pad_token=PAD, bos_token=BOS, eos_token=EOS
    )


def make_model(size: Size, tokenizer: PreTrainedTokenizerFast, seed: int) -> PreTrainedModel:
    """The decoder, weights drawn from ``seed``; embeddings tied to the output head.

    Standard deviation 0.5 / √width, and 1 / √(2 · layers) of that for the matrices that write into the residual stream
    (GPT-2's rule). The usual 0.02 is for models ten times as wide: at 96 wide it takes more than twice the steps to
    learn the same task.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=-(-len(tokenizer) // 64) * 64,  # whole tiles for a GPU's matrix units
        hidden_size=size.width,
        intermediate_size=size.feed_forward,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        max_position_embeddings=MAX_POSITIONS,
        initializer_range=0.5 / math.sqrt(size.width),
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None,
    )
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                value.mul_(1 / math.sqrt(2 * size.layers))
    return model
