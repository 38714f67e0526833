"""Reads a base model from one GGUF file: its weights, dequantised to fp32, with configuration and tokenizer.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. transformers knows how its tensors are named and
laid out; the library ``gguf`` reads the file. What is written is rounded as the file's blocks are: nothing brings their
lost digits back.
"""

from __future__ import annotations

import struct
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multitask_trainer.base_model.checkpoint import checked_tokenizer
from multitask_trainer.errors import StageError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

_MAGIC = b"GGUF"
_UNREADABLE = (ValueError, IndexError, KeyError, TypeError, OverflowError, UnicodeDecodeError, struct.error)
"""What readers of the format raise where a file ends early, or has something else in it."""


def read_gguf(path: Path, name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Model (fp32) and tokenizer of the file at ``path``; ``name`` is its address, for messages.

    Raises `StageError` for a file that cannot be used.
    """
    import torch
    from transformers import AutoConfig, AutoTokenizer, GgufConfig

    from multitask_serving.engine.model.pretrained import read_pretrained

    try:
        architecture = _architecture(path)
    except StageError as error:
        raise StageError(f"baseModel.ggufFile: {name}: {error}") from error
    source: dict[str, Any] = {"gguf_file": path.name, "local_files_only": True}
    try:
        config = AutoConfig.from_pretrained(path.parent, trust_remote_code=False, **source)
        tokenizer = AutoTokenizer.from_pretrained(path.parent, trust_remote_code=False, **source)
        packed = {"quantization_config": GgufConfig(dequantize=True)}
        read, missing = read_pretrained(
            path.parent, dtype=torch.float32, attention=None, config=config, **source, **packed
        )
    except (OSError, RuntimeError, ImportError, *_UNREADABLE) as error:
        raise StageError(
            f"baseModel.ggufFile: {name}: transformers {version('transformers')} cannot read this model of the GGUF "
            f"architecture {architecture} ({_first_line(error)}); use its checkpoint in safetensors"
        ) from error
    model = _ordinary(read)
    return model, checked_tokenizer(model, missing, tokenizer, name)


def count_weights(path: Path) -> int | None:
    """The number of weights in the file at ``path``, as its table of tensors says; None if it cannot be read."""
    try:
        return sum(int(tensor.n_elements) for tensor in _open(path).tensors) or None
    except (ImportError, OSError, *_UNREADABLE):
        return None


def _open(path: Path) -> Any:
    from gguf import GGUFReader

    return GGUFReader(path)


def gguf_problem(path: Path) -> str | None:
    """Why the file at ``path`` cannot be read; None if its header can be, and all of its tensors are there."""
    try:
        _architecture(path)
    except StageError as error:
        return str(error)
    return None


def _architecture(path: Path) -> str:
    """The file's ``general.architecture``; raises `StageError` unless all of its tensors are there."""
    try:
        reader = _open(path)
        end = max(int(tensor.data_offset) + int(tensor.n_bytes) for tensor in reader.tensors)
        architecture = str(reader.fields["general.architecture"].contents())
    except ImportError as error:
        raise StageError(
            "the library gguf, which reads such files, is not installed; install gguf, or use a trainer image that has "
            "it"
        ) from error
    except (OSError, *_UNREADABLE) as error:
        raise StageError(_damage(path)) from error
    if end > path.stat().st_size:
        raise StageError(_damage(path))
    return architecture


def _damage(path: Path) -> str:
    with path.open("rb") as file:
        whole = file.read(len(_MAGIC)) == _MAGIC
    if not whole:
        return "is not in the GGUF format; give the name of a GGUF file"
    return (
        f"is cut short or damaged: what it announces is not in its {path.stat().st_size:,} bytes; copy it again, and "
        "compare its size with the original's"
    )


def _ordinary(read: PreTrainedModel) -> PreTrainedModel:
    """The model without its mark of a quantised one, which transformers would not save. It shares the weights."""
    import torch

    config = read.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        model = type(read)(config)
    model.load_state_dict(read.state_dict(), assign=True)
    model.tie_weights()
    return model


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
