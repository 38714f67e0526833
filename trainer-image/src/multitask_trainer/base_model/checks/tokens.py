"""Tests of a base model's tokenizer: the ids fit the model, and text comes back as it was."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from multitask_trainer.base_model.checks.rows import TOKENS
from multitask_trainer.errors import StageError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

SAMPLE = "Please refund order 4821: the blue lamp arrived broken, and nobody answered my two e-mails last week."
_ROUND_TRIP = 'Où est ma commande n° 12 ?\n  退款 – it\'s "late".'


def sample_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """`TOKENS` ids of an English sentence, which the model must have. Raises `StageError`."""
    embeddings: Any = model.get_input_embeddings()
    rows = embeddings.weight.shape[0]
    backend = tokenizer.backend_tokenizer
    ids = backend.encode(SAMPLE, add_special_tokens=False).ids
    largest = max([*ids, tokenizer.eos_token_id, *([] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id])])
    if not ids:
        raise StageError("baseModel: its tokenizer gives no tokens for an English sentence; use another base model")
    if largest >= rows:
        raise StageError(
            f"baseModel: its tokenizer gives the id {largest}, and the model has embeddings for {rows} tokens: "
            "tokenizer and weights are of different models. Give a folder that holds both of one model"
        )
    return (ids * -(-TOKENS // len(ids)))[:TOKENS]


def round_trip_warning(tokenizer: PreTrainedTokenizerFast) -> str | None:
    """A warning if text changes on its way through ids; labels are not concerned, generated text is."""
    backend = tokenizer.backend_tokenizer
    text = backend.decode(backend.encode(_ROUND_TRIP, add_special_tokens=False).ids, skip_special_tokens=True)
    if text.strip() == _ROUND_TRIP:
        return None
    return f"baseModel: its tokenizer does not keep text as it is: {_ROUND_TRIP!r} comes back as {text!r}"
