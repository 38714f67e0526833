"""Loads the base model that the base stage has left: its weights, its tokenizer, its limits, and how it is run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import ValidationError

from multitask_api.bundle import ForwardPath, PromptFormat
from multitask_api.types import Record
from multitask_trainer.base_model.limits import max_length_problem
from multitask_trainer.errors import StageError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

R = TypeVar("R", bound=Record)

FORWARD_PATH = "forward_path.json"
"""Beside the weights: the `ForwardPath` that the stage ``base`` has found. Absent: the default one."""

PROMPT_FORMAT = "prompt_format.json"
"""Beside the weights: the `PromptFormat` that the stage ``base`` has fixed. Absent: that of an older base."""

Precision = Literal["fp32", "bf16"]
"""The precisions that a model can be served in."""


def torch_dtype(precision: Precision) -> torch.dtype:
    """The dtype of weights in ``precision``."""
    import torch

    return torch.float32 if precision == "fp32" else torch.bfloat16


def check_max_length(model: PreTrainedModel, max_length: int) -> None:
    """Raise `StageError` if rows of ``max_length`` tokens are more than ``model`` takes."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    problem = max_length_problem(max_length, positions)
    if problem is not None:
        raise StageError(f"training.maxLength: {problem}")


def read_forward_path(folder: Path) -> ForwardPath:
    """How the base model in ``folder`` is run. Raises `StageError`."""
    return _read_record(folder / FORWARD_PATH, ForwardPath)


def write_forward_path(path: ForwardPath, folder: Path) -> None:
    """The counterpart of `read_forward_path`. The default leaves no file: it is that of every older base."""
    if path != ForwardPath():
        _write_record(path, folder / FORWARD_PATH)


def read_prompt_format(folder: Path) -> PromptFormat:
    """How prompts are encoded for the base model in ``folder``. Raises `StageError`."""
    return _read_record(folder / PROMPT_FORMAT, PromptFormat)


def write_prompt_format(prompt_format: PromptFormat, folder: Path) -> None:
    """The counterpart of `read_prompt_format`."""
    _write_record(prompt_format, folder / PROMPT_FORMAT)


def _read_record(path: Path, record: type[R]) -> R:
    """The record in a file beside the weights; the default where an older release left no file."""
    if not path.exists():
        return record()
    try:
        return record.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise StageError(f"{path}: is not of this version ({error}); delete the base to have it made again") from error


def _write_record(record: Record, path: Path) -> None:
    path.write_text(json.dumps(record.to_json(), indent=1, sort_keys=True) + "\n", "utf-8")


def load_base(folder: Path, dtype: torch.dtype | None = None, *, on_meta: bool = False) -> PreTrainedModel:
    """The causal language model in ``folder``, on the CPU; without ``dtype`` as it is saved, fp32.

    ``on_meta``: on the meta device, without values. Raises `StageError`.
    """
    attention = read_forward_path(folder).attention
    if on_meta:
        return _skeleton(folder, attention=attention, dtype=dtype)
    return read_model(folder, attention=attention, dtype=dtype)


def _skeleton(folder: Path, *, attention: str | None, dtype: torch.dtype | None) -> PreTrainedModel:
    import torch

    from multitask_serving.engine.model.pretrained import make_skeleton

    try:
        model = make_skeleton(folder, dtype=dtype or torch.float32, attention=attention)
    except (OSError, ValueError) as error:
        raise StageError(f"{folder}: the base model cannot be read: {error}") from error
    model.config.use_cache = False
    return model


def read_model(
    folder: Path, *, attention: str | None, dtype: torch.dtype | None = None, **options: Any
) -> PreTrainedModel:
    """`load_base` with this implementation of attention; None: the one that transformers chooses for the family.

    ``options`` go to ``from_pretrained``.
    """
    import torch
    from safetensors import SafetensorError

    from multitask_serving.engine.model.pretrained import read_pretrained

    try:
        model, _ = read_pretrained(
            folder,
            dtype=dtype or torch.float32,
            attention=attention,
            local_files_only=True,
            use_safetensors=True,
            **options,
        )
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        raise StageError(f"{folder}: the base model cannot be read: {error}") from error
    model.config.use_cache = False
    return model


def load_tokenizer(model: Path) -> PreTrainedTokenizerFast:
    """The tokenizer beside a model's weights. Raises `StageError` if it has no ``tokenizer.json``."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise StageError(f"{model}: only tokenizers with a tokenizer.json are supported; use another base model")
    return tokenizer
