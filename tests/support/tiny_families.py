"""Tiny, randomly initialised models of the families that people fine-tune: name → configuration → model.

Every model has a few hundred thousand weights at most. Weights are wide enough (standard deviation 0.15) that layers
and logits differ from position to position: a leak between rows then shows in every answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

Settings = dict[str, Any]

WIDTH, HEADS, DEVIATION = 64, 4, 0.15
POSITIONS = 512

_DECODER: Settings = {
    "hidden_size": WIDTH,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": HEADS,
    "num_key_value_heads": 2,
    "max_position_embeddings": POSITIONS,
    "initializer_range": DEVIATION,
}
_HEAD_DIM: Settings = {"head_dim": 16}
_EXPERTS: Settings = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
_MLA: Settings = {
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "num_key_value_heads": HEADS,
    "n_routed_experts": 4,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "n_shared_experts": 1,
}
_LINEAR_ATTENTION: Settings = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_conv_kernel_dim": 4,
}
_MAMBA2: Settings = {
    "mamba_n_heads": 8,
    "mamba_n_groups": 1,
    "mamba_d_state": 16,
    "mamba_d_head": 16,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_chunk_size": 16,
}
_WINDOWED = ["sliding_attention", "full_attention"]
_VISION: Settings = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 56,
    "patch_size": 14,
    "vision_use_head": False,
}

PLAIN: Mapping[str, Settings] = {
    "llama": {},
    "mistral": {"sliding_window": None},
    "qwen2": {},
    "qwen3": _HEAD_DIM,
    "gemma": _HEAD_DIM,
    "phi": {},
    "phi3": {"pad_token_id": 0},
    "olmo2": {},
    "smollm3": {"pad_token_id": 0},
    "glm4": {**_HEAD_DIM, "pad_token_id": 0},
    "stablelm": {},
    "starcoder2": {},
    "helium": _HEAD_DIM,
    "nemotron": {},
    "gpt2": {},
    "gpt_neox": {},
    "gptj": {"rotary_dim": 8},
    "codegen": {"rotary_dim": 8},
    "opt": {"ffn_dim": 96, "word_embed_proj_dim": WIDTH},
    "biogpt": {},
    "falcon": {"new_decoder_architecture": True, "num_kv_heads": 2, "alibi": False},
}
"""Every layer attends to all earlier positions."""

SCALED: Mapping[str, Settings] = {
    "granite": {"logits_scaling": 8.0, "embedding_multiplier": 6.0, "residual_multiplier": 0.4},
    "cohere": {"logit_scale": 0.25},
    "gemma2": {**_HEAD_DIM, "final_logit_softcapping": 3.0, "attn_logit_softcapping": 20.0, "layer_types": _WINDOWED},
    "nanochat": {"final_logit_softcapping": 3.0},
    "minicpm3": {**_MLA, "dim_model_base": 10},
    "hyperclovax": {"logits_scaling": 0.125},
}
"""Logits are scaled or capped after the head. MiniCPM3's divisor, 6.4, is not a power of two: it costs a rounding."""

WINDOWED: Mapping[str, Settings] = {
    "mistral_window": {"model_type": "mistral", "sliding_window": 8},
    "starcoder2_window": {"model_type": "starcoder2", "sliding_window": 8},
    "qwen2_window": {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 8, "layer_types": _WINDOWED},
    "gemma3_text": {**_HEAD_DIM, "sliding_window": 8, "layer_types": _WINDOWED},
    "cohere2": {"sliding_window": 8, "layer_types": _WINDOWED, "logit_scale": 0.25},
    "olmo3": {"sliding_window": 8, "layer_types": _WINDOWED},
    "ministral": {**_HEAD_DIM, "sliding_window": 8, "layer_types": _WINDOWED},
    "exaone4": {"sliding_window": 8, "layer_types": _WINDOWED},
    "gpt_oss": {**_HEAD_DIM, **_EXPERTS, "sliding_window": 8, "layer_types": _WINDOWED},
    "llama4_text": {
        **_HEAD_DIM,
        **_EXPERTS,
        "intermediate_size_mlp": 96,
        "attention_chunk_size": 8,
        "num_experts_per_tok": 1,
        "layer_types": ["chunked_attention", "full_attention"],
    },
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 8, "num_layers": 2},
}
"""Some layers attend to the last eight positions only."""

EXPERTS: Mapping[str, Settings] = {
    "mixtral": {**_EXPERTS, "sliding_window": None},
    "qwen2_moe": {**_EXPERTS, "shared_expert_intermediate_size": 48},
    "qwen3_moe": {**_HEAD_DIM, **_EXPERTS},
    "olmoe": _EXPERTS,
    "granitemoe": _EXPERTS,
    "deepseek_v2": {**_MLA, "num_experts_per_tok": 2, "moe_intermediate_size": 48, "topk_method": "greedy"},
    "deepseek_v3": {**_MLA, "num_experts_per_tok": 2, "moe_intermediate_size": 48, "head_dim": 8},
    "deepseek_v32": {**_MLA, "num_experts_per_tok": 2, "moe_intermediate_size": 48},
    "glm_moe_dsa": {**_MLA, "num_experts_per_tok": 2, "moe_intermediate_size": 48},
}

HYBRID: Mapping[str, Settings] = {
    "qwen3_5_text": {**_HEAD_DIM, **_LINEAR_ATTENTION, "layer_types": ["linear_attention", "full_attention"]},
    "qwen3_next": {
        **_HEAD_DIM,
        **_LINEAR_ATTENTION,
        **_EXPERTS,
        "shared_expert_intermediate_size": 48,
        "layer_types": ["linear_attention", "full_attention"],
    },
    "lfm2": {"layer_types": ["conv", "full_attention"], "block_multiple_of": 8, "block_auto_adjust_ff_dim": False},
    "granitemoehybrid": {
        **_MAMBA2,
        **_EXPERTS,
        "layer_types": ["mamba", "attention"],
        "shared_intermediate_size": 48,
        "logits_scaling": 8.0,
    },
    "olmo_hybrid": {**_LINEAR_ATTENTION, "layer_types": ["linear_attention", "full_attention"]},
    "falcon_h1": {**_MAMBA2, "mamba_d_ssm": 128, "lm_head_multiplier": 0.1, **_HEAD_DIM},
    "jamba": {
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
        "num_experts": 2,
        "mamba_d_state": 8,
        "mamba_dt_rank": 4,
        "use_mamba_kernels": False,
    },
    "bamba": {**_MAMBA2, "attn_layer_indices": [1]},
    "nemotron_h": {
        **_HEAD_DIM,
        "hybrid_override_pattern": "M*",
        "layers_block_type": ["mamba", "attention"],
        "mamba_num_heads": 8,
        "mamba_head_dim": 16,
        "n_groups": 1,
        "ssm_state_size": 16,
        "chunk_size": 16,
    },
    "zamba2": {
        "layers_block_type": ["mamba", "hybrid"],
        "mamba_d_state": 16,
        "mamba_headdim": 16,
        "n_mamba_heads": 8,
        "mamba_ngroups": 1,
        "chunk_size": 16,
        "num_mem_blocks": 1,
        "adapter_rank": 8,
    },
    "recurrent_gemma": {"lru_width": WIDTH, "attention_window_size": 8, "block_types": ["recurrent", "attention"]},
    "mamba": {"state_size": 8},
    "mamba2": {"state_size": 16, "num_heads": 8, "head_dim": 16, "n_groups": 1, "chunk_size": 16},
    "falcon_mamba": {"state_size": 8},
}
"""Some layers are linear attention, short convolutions or state spaces."""

OTHER_POSITIONS: Mapping[str, Settings] = {
    "bloom": {"n_head": HEADS},
    "mpt": {"d_model": WIDTH, "n_heads": HEADS, "n_layers": 2, "expansion_ratio": 2, "max_seq_len": POSITIONS},
    "falcon_alibi": {"model_type": "falcon", "alibi": True, "new_decoder_architecture": False},
    "xglm": {"d_model": WIDTH, "attention_heads": HEADS, "ffn_dim": 96, "num_layers": 2},
}
"""Positions come from the order of the columns, or cannot be given."""

_TEXT: Settings = {**_DECODER, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None}
_CLIP: Settings = {name: value for name, value in _VISION.items() if name != "vision_use_head"}
_MROPE: Settings = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}}
_QWEN_VISION: Settings = {"depth": 1, "num_heads": 2, "patch_size": 14}
_QWEN_TOKENS: Settings = {
    "image_token_id": 90,
    "video_token_id": 91,
    "vision_start_token_id": 92,
    "vision_end_token_id": 93,
}

WRAPPED: Mapping[str, Settings] = {
    "gemma3": {
        "text_config": {**_TEXT, **_HEAD_DIM, "sliding_window": 8, "layer_types": _WINDOWED},
        "vision_config": _VISION,
        "mm_tokens_per_image": 4,
    },
    "qwen2_vl": {
        "text_config": {**_TEXT, **_MROPE},
        "vision_config": {**_QWEN_VISION, "embed_dim": 32, "hidden_size": WIDTH, "mlp_ratio": 2},
        **_QWEN_TOKENS,
    },
    "qwen2_5_vl": {
        "text_config": {**_TEXT, **_MROPE},
        "vision_config": {
            **_QWEN_VISION,
            "hidden_size": 32,
            "intermediate_size": 48,
            "out_hidden_size": WIDTH,
            "fullatt_block_indexes": [0],
        },
        **_QWEN_TOKENS,
    },
    "qwen3_vl": {
        "text_config": {**_TEXT, **_HEAD_DIM, **_MROPE},
        "vision_config": {
            "depth": 1,
            "hidden_size": 32,
            "num_heads": 2,
            "intermediate_size": 48,
            "out_hidden_size": WIDTH,
            "deepstack_visual_indexes": [0],
        },
        "image_token_id": 90,
        "video_token_id": 91,
    },
    "llava": {
        "text_config": {**_TEXT, "model_type": "llama"},
        "vision_config": {**_CLIP, "model_type": "clip_vision_model", "projection_dim": 32},
        "image_token_index": 90,
    },
    "mistral3": {
        "text_config": {**_TEXT, "model_type": "mistral", "sliding_window": None},
        "vision_config": {**_CLIP, "model_type": "pixtral"},
        "image_token_index": 90,
    },
}
"""A text decoder inside a multimodal model."""

UNFIT: Mapping[str, Settings] = {
    "bert": {"pad_token_id": 0},
    "bert_decoder": {"model_type": "bert", "is_decoder": True, "pad_token_id": 0},
    "roberta": {"pad_token_id": 0},
    "electra": {"pad_token_id": 0},
    "modernbert-decoder": {"pad_token_id": 0, "local_attention": 8, "layer_types": _WINDOWED},
    "openai-gpt": {},
    "rwkv": {"attention_hidden_size": WIDTH},
    "xlstm": {"num_blocks": 2, "num_heads": HEADS},
}
"""What cannot be used: encoders, a head that is more than a linear layer, no cache or one that cannot be copied."""

FAMILIES: Mapping[str, Settings] = {
    **PLAIN,
    **SCALED,
    **WINDOWED,
    **EXPERTS,
    **HYBRID,
    **OTHER_POSITIONS,
    **WRAPPED,
    **UNFIT,
}


def tiny_config(family: str, *, vocabulary: int = 96, **changes: Any) -> PreTrainedConfig:
    """The configuration of ``family``: two layers of 64 wide; ``changes`` replace its settings."""
    settings = FAMILIES[family] | changes
    model_type = settings.pop("model_type", family)
    if "text_config" in settings:
        settings = settings | {"text_config": settings["text_config"] | {"vocab_size": vocabulary}}
        return AutoConfig.for_model(model_type, **settings)
    ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": settings.pop("pad_token_id", None)}
    return AutoConfig.for_model(model_type, **(_DECODER | settings | ends | {"vocab_size": vocabulary}))


def tiny_model(family: str, *, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A model of ``family`` in fp32, with attention as transformers chooses it; changes as in `tiny_config`."""
    torch.manual_seed(seed)
    multimodal = family in WRAPPED and family != "gemma3"  # that one is in both lists of transformers
    kind = AutoModelForImageTextToText if multimodal else AutoModelForCausalLM
    model: PreTrainedModel = kind.from_config(tiny_config(family, **changes), dtype=torch.float32)
    return model.eval()


def write_tiny_base(family: str, folder: Path, tokenizer: PreTrainedTokenizerFast, **changes: Any) -> Path:
    """A base model of ``family`` as a transformers folder, with ``tokenizer``; returns ``folder``."""
    tiny_model(family, vocabulary=-(-len(tokenizer) // 8) * 8, **changes).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
