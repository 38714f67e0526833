"""Loading a base model's folder for training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from multitask_trainer.errors import StageError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def length_problem(max_length: int, positions: int | None) -> str | None:
    """What is wrong with ``training.maxLength`` for a base of so many positions; None also where that is not known."""
    if positions is None or max_length <= positions:
        return None
    return (
        f"{max_length} tokens are more than the base model takes, {positions} (its max_position_embeddings); lower"
        f" training.maxLength to {positions} or less, or use another base model"
    )


def check_length(model: PreTrainedModel, max_length: int) -> None:
    """Raise `StageError` if rows of ``max_length`` tokens are more than ``model`` takes."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    problem = length_problem(max_length, positions)
    if problem is not None:
        raise StageError(f"training.maxLength: {problem}")


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
