"""Tests of a base model's tokenizer: the ids fit the model, and text comes back as it was."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from multitask_api.bundle import PromptPiece
from multitask_serving.engine.prompt.compiling import prefix_ids
from multitask_trainer.base_model.checks.rows import TOKENS
from multitask_trainer.errors import StageError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

SAMPLE = "Please refund order 4821: the blue lamp arrived broken, and nobody answered my two e-mails last week."
_ROUND_TRIP = 'Où est ma commande n° 12 ?\n  退款 – it\'s "late".'
_RESIZE = "save the model after model.resize_token_embeddings(len(tokenizer))"


def check_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    """Raise `StageError` if a text can become an id for which the model has no embedding.

    Special tokens may lie beyond: a text in which one is spelled out gets the ids of its characters. Those around every
    text, and the end of an answer, may not.
    """
    special = {i for i, token in tokenizer.backend_tokenizer.get_added_tokens_decoder().items() if token.special}
    used = {int(i) for i in tokenizer.get_vocab().values()} - special
    used.update(prefix_ids(tokenizer), [int(tokenizer.eos_token_id)])
    rows = _embeddings(model)
    beyond = sorted(i for i in used if i >= rows)
    if beyond:
        raise StageError(
            f"baseModel: its tokenizer gives {len(beyond)} ids from {beyond[0]} on, for example for "
            f"{tokenizer.convert_ids_to_tokens(beyond[0])!r}, and the model has embeddings for {rows} tokens: "
            "tokenizer and weights are of different models, or tokens were added. Give a folder that holds both of one "
            f"model, or {_RESIZE}"
        )


def check_prompt(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    task: str,
    pieces: Sequence[PromptPiece],
    prefix: Sequence[int],
) -> None:
    """Raise `StageError` if the compiled prompt of ``task`` has a special token without an embedding."""
    rows = _embeddings(model)
    beyond = next((i for i in [*prefix, *(i for piece in pieces for i in piece.ids or ())] if i >= rows), None)
    if beyond is not None:
        raise StageError(
            f"task {task}: its prompt has the token {tokenizer.convert_ids_to_tokens(beyond)!r} with the id {beyond}, "
            f"and the base model has embeddings for {rows} tokens. Take it out of the prompt or the chat template, or "
            f"{_RESIZE}"
        )


def sample_tokens(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """`TOKENS` ids of an English sentence. Raises `StageError` if there are none."""
    ids = tokenizer.backend_tokenizer.encode(SAMPLE, add_special_tokens=False).ids
    if not ids:
        raise StageError("baseModel: its tokenizer gives no tokens for an English sentence; use another base model")
    return (ids * -(-TOKENS // len(ids)))[:TOKENS]


def round_trip_warning(tokenizer: PreTrainedTokenizerFast) -> str | None:
    """A warning if text changes on its way through ids; labels are not concerned, generated text is."""
    backend = tokenizer.backend_tokenizer
    text = backend.decode(backend.encode(_ROUND_TRIP, add_special_tokens=False).ids, skip_special_tokens=True)
    if text.strip() == _ROUND_TRIP:
        return None
    return f"baseModel: its tokenizer does not keep text as it is: {_ROUND_TRIP!r} comes back as {text!r}"


def _embeddings(model: PreTrainedModel) -> int:
    embeddings: Any = model.get_input_embeddings()
    return int(embeddings.weight.shape[0])
