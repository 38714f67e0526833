"""Reads a base model's checkpoint as its authors saved it, and says in a sentence why it cannot be used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multitask_serving.engine.model.pretrained import read_pretrained
from multitask_trainer.errors import HubUnreachable, StageError
from multitask_trainer.storage.hub_access import NOT_ANSWERED, is_outage, unreachable_hub

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

_REASONS = {
    "trust_remote_code": (
        "it needs program code of its own (auto_map in config.json), which is not run here; use a base whose "
        "architecture is part of transformers"
    ),
    "does not recognize this architecture": (
        "its model_type is unknown to the installed transformers {version}; use another base, or a trainer image with "
        "a later transformers"
    ),
    "Unrecognized configuration class": (
        "it is not a decoder that continues text, but an encoder or an encoder with a decoder; use a causal language "
        "model"
    ),
    "Couldn't instantiate the backend tokenizer": (
        "there is no tokenizer.json, and no other tokenizer file that can be converted to one; add the tokenizer.json "
        "that AutoTokenizer.from_pretrained(…).save_pretrained(…) writes"
    ),
    "no file named model.safetensors": (
        "there are no weights beside config.json; give the folder that has the model's safetensors files too"
    ),
}
"""Part of what transformers says → the same for users of this program."""


def read_checkpoint(name: str, uri: str, **options: Any) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Model (fp32) and tokenizer of ``name``, a folder or a model of the hub; ``uri`` is for messages.

    Raises `StageError` for one that cannot be used, `HubUnreachable` (retryable) if the hub does not answer.
    """
    import torch
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig, AutoTokenizer

    _refuse_adapter(Path(name), uri)
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False, **options)
        _refuse_quantised(config, uri)
        _drop_empty_windows(config)
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False, **options)
        model, missing = read_pretrained(name, dtype=torch.float32, attention=None, config=config, **options)
    except (*NOT_ANSWERED, KeyError, StrictDataclassError) as error:
        raise _explained(error, uri) from error
    return model, checked_tokenizer(model, missing, tokenizer, uri)


def checked_tokenizer(
    model: PreTrainedModel, missing: Sequence[str], tokenizer: object, uri: str
) -> PreTrainedTokenizerFast:
    """The tokenizer of a whole model, with a padding token; ``missing`` are the weights that the checkpoint lacks.

    Raises `StageError` if there are any, or if the tokenizer cannot be used.
    """
    from transformers import PreTrainedTokenizerFast

    if missing:
        raise StageError(
            f"baseModel.uri: {uri}: the checkpoint lacks {len(missing)} weights of {type(model).__name__}, for example "
            f"{missing[0]}: config.json and weights are of different models. Give a folder that holds both of one model"
        )
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise StageError(
            f"baseModel.uri: {uri}: its tokenizer has no tokenizer.json and cannot be converted; use another base"
        )
    if tokenizer.eos_token_id is None:
        raise StageError(f"baseModel.uri: {uri}: its tokenizer has no end-of-sequence token; use another base")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _refuse_adapter(folder: Path, uri: str) -> None:
    if (folder / "adapter_config.json").exists() and not (folder / "config.json").exists():
        raise StageError(
            f"baseModel.uri: {uri}: this is an adapter (adapter_config.json), not a whole model; merge it into its "
            "base and give the merged model"
        )


def _refuse_quantised(config: PreTrainedConfig, uri: str) -> None:
    """Before the weights are read: training needs all their digits, and there is no way back to them."""
    for part in (config, config.get_text_config()):
        settings: Any = getattr(part, "quantization_config", None)
        if settings:
            found = settings if isinstance(settings, dict) else settings.to_dict()
            raise StageError(
                f"baseModel.uri: {uri}: its weights are quantised ({found.get('quant_method', 'unknown method')}), and "
                "training starts from full precision; use the checkpoint in bf16 or fp32 that it was made from"
            )


def _drop_empty_windows(config: PreTrainedConfig) -> None:
    """A window of 0 or -1 means "off" to those who write it; transformers would let a token attend to nothing else.

    Layers that are called windowed keep their kind, because other settings go by it: their window becomes as wide as
    the model.
    """
    for part in (config, config.get_text_config()):
        if hasattr(part, "sliding_window") and (part.sliding_window is None or part.sliding_window <= 0):
            windowed = "sliding_attention" in (getattr(part, "layer_types", None) or ())
            part.sliding_window = part.max_position_embeddings if windowed else None


def _explained(error: Exception, uri: str) -> StageError | HubUnreachable:
    import transformers

    hub = uri.startswith("hf://")
    text = str(error).strip()
    first = text.splitlines()[0] if text else type(error).__name__
    for part, reason in _REASONS.items():
        if part in text:
            return StageError(f"baseModel.uri: {uri}: {reason.format(version=transformers.__version__)}")
    hint = (
        "check its name, that this machine reaches the hub, and for a gated model that spec.credentials names a Secret "
        "with HF_TOKEN"
        if hub
        else "the folder must hold a causal language model that transformers can read, and its tokenizer"
    )
    if hub and is_outage(error):
        return HubUnreachable(f"baseModel.uri: {uri}: {unreachable_hub(error)}")
    return StageError(f"baseModel.uri: {uri}: cannot be loaded ({first}); {hint}")
