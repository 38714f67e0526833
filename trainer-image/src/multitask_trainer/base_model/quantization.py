"""A frozen base in 4 bits: NF4 with quantised scales (Dettmers et al., QLoRA, arXiv 2305.14314), by bitsandbytes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from multitask_trainer.base_model.loading import read_forward_path, read_model

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel


def load_quantized(folder: Path, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    """The causal language model in ``folder``, on ``device``, its linear layers but the head in NF4.

    They compute in ``dtype``, which all other weights have. Raises `StageError`.
    """
    from transformers import BitsAndBytesConfig

    settings = BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )
    model = read_model(
        folder,
        attention=read_forward_path(folder).attention,
        dtype=dtype,
        quantization_config=settings,
        device_map={"": device},
    )
    layers: list[Any] = [module for module in model.modules() if is_quantized(module)]
    for layer in layers:
        # In evaluation a CPU with AVX512-BF16 would put the weights into another order, which has no gradient.
        layer.support_avx512bf16_for_cpu = False
    return model


def is_quantized(module: nn.Module) -> bool:
    """Whether the module is a linear layer of a model that `load_quantized` gave."""
    weight: Any = getattr(module, "weight", None)
    return getattr(weight, "quant_state", None) is not None


def number_of_weights(value: nn.Parameter) -> int:
    """How many weights a parameter has; in 4 bits two of them are one element."""
    state: Any = getattr(value, "quant_state", None)
    return value.numel() if state is None else int(state.shape.numel())
