"""Loading a base model's folder for training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from multitask_trainer.errors import StageError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def load_base(folder: Path) -> PreTrainedModel:
    """The causal language model in ``folder``, fp32 (the master weights), on the CPU. Raises `StageError`."""
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="sdpa", local_files_only=True, use_safetensors=True
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise StageError(f"{folder}: the base model cannot be read: {error}") from error
    model.config.use_cache = False
    return model
