"""Tiny random models of many families, as their own classes make them: dense, composite, Conv1D, mixture of experts."""

from __future__ import annotations

from collections.abc import Callable

import torch
from transformers import (
    AutoModelForCausalLM,
    BambaConfig,
    DeepseekV3Config,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    GPT2Config,
    GptOssConfig,
    GraniteMoeConfig,
    LlamaConfig,
    MixtralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2MoeConfig,
    Qwen3MoeConfig,
    SiglipVisionConfig,
)

VOCABULARY = 420
"""That of ``engine_builders.tokenizer``."""

_TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_MOE = {"moe_intermediate_size": 24, "num_experts": 6, "num_experts_per_tok": 2}


def _gpt2() -> PreTrainedConfig:
    return GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=256, initializer_range=0.2,
        bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip


def _gemma3() -> PreTrainedConfig:
    text = Gemma3TextConfig(
        **_TEXT,
        query_pre_attn_scalar=8,
        sliding_window=256,
        layer_types=["full_attention", "full_attention"],
    )
    vision = SiglipVisionConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8
    )
    return Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_index=419)


CONFIGS: dict[str, Callable[[], PreTrainedConfig]] = {
    "llama": lambda: LlamaConfig(**_TEXT),
    "llama-tied": lambda: LlamaConfig(**_TEXT, tie_word_embeddings=True),
    "gpt2": _gpt2,
    "gemma3-multimodal": _gemma3,
    "mixtral": lambda: MixtralConfig(**_TEXT, num_local_experts=4, num_experts_per_tok=2),
    # The first layer is dense, the second has experts: one name, two kinds of layers.
    "qwen3-moe": lambda: Qwen3MoeConfig(**_TEXT, **_MOE, mlp_only_layers=[0]),
    "qwen2-moe": lambda: Qwen2MoeConfig(**_TEXT, **_MOE, shared_expert_intermediate_size=20),
    "gpt-oss": lambda: GptOssConfig(**_TEXT, num_local_experts=4, num_experts_per_tok=2, sliding_window=256),
    "granite-moe": lambda: GraniteMoeConfig(**_TEXT, num_local_experts=4, num_experts_per_tok=2),
    "deepseek-v3": lambda: DeepseekV3Config(
        **_TEXT | {"num_key_value_heads": 4}, moe_intermediate_size=24, n_routed_experts=4, num_experts_per_tok=2,
        n_group=2, topk_group=1, first_k_dense_replace=1, q_lora_rank=16, kv_lora_rank=16, qk_rope_head_dim=8,
        qk_nope_head_dim=8, v_head_dim=8,
    ),
    "bamba": lambda: BambaConfig(
        **_TEXT, attn_layer_indices=[1], mamba_n_heads=4, mamba_d_head=16, mamba_d_state=8, mamba_n_groups=1,
        mamba_chunk_size=8,
    ),
}  # fmt: skip
"""Family → its config."""


def family(name: str, *, seed: int = 0) -> PreTrainedModel:
    """A random model of the family, in eval mode."""
    torch.manual_seed(seed)
    config = CONFIGS[name]()
    if isinstance(config, Gemma3Config):
        return Gemma3ForConditionalGeneration(config).eval()
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    return model.eval()
