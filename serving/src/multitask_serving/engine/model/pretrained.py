"""Reads a model that writes text from a transformers folder or the hub, whatever transformers calls its class."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

MISSING = "missing_keys"


def read_pretrained(
    source: str | Path,
    *,
    dtype: torch.dtype,
    attention: str | None,
    config: PreTrainedConfig | None = None,
    **options: Any,
) -> tuple[PreTrainedModel, list[str]]:
    """The model, and the names of weights that it has and the checkpoint lacks (they are random).

    ``attention`` is a name of transformers; None: what it chooses for the family. ``config`` replaces that of
    ``source``; ``options`` go to ``from_pretrained``. Code that comes with a checkpoint is never run. Raises what
    transformers raises.
    """
    from transformers import AutoConfig

    if config is None:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False, **options)
    model, report = _text_model(config).from_pretrained(
        source,
        config=config,
        dtype=dtype,
        attn_implementation=attention,
        trust_remote_code=False,
        output_loading_info=True,
        **options,
    )
    return model, sorted(report[MISSING])


def make_skeleton(folder: Path, *, dtype: torch.dtype, attention: str | None) -> PreTrainedModel:
    """The model that `read_pretrained` reads from ``folder``, on the meta device: it has shapes, and no values."""
    import torch
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    with torch.device("meta"):
        model: PreTrainedModel = _text_model(config).from_config(
            config, dtype=dtype, attn_implementation=attention, trust_remote_code=False
        )
    return model


def _text_model(config: PreTrainedConfig) -> Any:
    """The auto class: that of decoders, or of multimodal models for those that have no decoder alone."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    )

    multimodal = (
        type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING and type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    )
    return AutoModelForImageTextToText if multimodal else AutoModelForCausalLM
