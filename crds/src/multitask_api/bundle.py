"""``bundle.json``: what a server loads: models, adapters, and how each task uses them.

A bundle is a folder::

    bundle.json
    models/<model>/            a transformers folder: config.json, model.safetensors, tokenizer.json …
    adapters/<model>/<name>/   adapter.safetensors

``adapter.safetensors`` holds, for each adapted linear layer ``L`` of the model (its module path), ``L.A`` of shape
(rank, in_features) and ``L.B`` of shape (out_features, rank). The layer computes
``W x + scaling · B (A x)``. For weights that stack E experts in one parameter ``L``, ``L.A`` is (E, rank, in_features)
and ``L.B`` is (E, out_features, rank). This is plain LoRA; a CGC-LoRA task collapses into it exactly, because its gate
depends on the task alone (arXiv 2402.01684).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from multitask_api.types import Record

BASE_MODEL = "base"
"""The name of the model that has the adapters."""
BASELINE = "baseline"
"""``served_by`` of a task that is answered by its own single-task model."""


class PromptPiece(Record):
    """One piece of a prompt template: either a literal with its token ids, or a field of the request."""

    literal: str | None = None
    ids: tuple[int, ...] | None = None
    field: str | None = None
    lead: str | None = Field(None, description="White space that is tokenised together with the field's text.")


class PromptFormat(Record):
    """How prompts become token ids, fixed when a base model is made; training, evaluation and serving keep to it.

    The defaults are those of a base that an older release made.
    """

    chat_date: str | None = Field(
        None, description="The date (YYYY-MM-DD) that the chat template is told; absent: the template does not ask."
    )
    prefix: tuple[int, ...] | None = Field(
        None, description="Token ids before a prompt without a chat template; absent: BOS, if the tokenizer adds it."
    )
    seams: Literal["Separate", "Joined"] = Field(
        "Separate",
        description="Separate: the text of a field is tokenised alone. Joined: together with a space before it, where "
        "that gives the ids of running text.",
    )


class LabelIds(Record):
    """A label and its token ids, EOS not included."""

    label: str
    ids: tuple[int, ...] = Field(min_length=1)


StopText = Annotated[str, StringConstraints(min_length=1, max_length=64)]


class GenerationSettings(Record):
    """When a generated answer ends: at the end-of-sequence token, or as these fields say."""

    max_new_tokens: int = Field(64, ge=1, le=4096, description="Upper limit of the tokens of an answer.")
    stop: tuple[StopText, ...] = Field(
        (), max_length=16, description="Texts that end an answer; the answer stops before the first one. Default: none."
    )


class Adapter(Record):
    """A low-rank delta over one model."""

    name: str
    path: str
    rank: int = Field(ge=1)
    scaling: float


class ForwardPath(Record):
    """How a model is run so that the rows of a batch do not change each other; found by testing the base model.

    The defaults are the way of a decoder whose layers all obey an attention mask.
    """

    attention: Literal["sdpa", "eager"] = Field("sdpa", description="The attention implementation of transformers.")
    isolation: Literal["Masks", "Rows"] = Field(
        "Masks",
        description="Masks: rows may share a sequence, an attention mask keeps them apart. Rows: one row a sequence.",
    )
    labels: Literal["Trie", "PromptState", "Sequences"] = Field(
        "Trie",
        description="Trie: all labels behind one prompt, in one pass. PromptState: what the model keeps of a prompt is "
        "copied for every label. Sequences: prompt and label as one sequence, label by label.",
    )
    batches: Literal["Padded", "EqualLengths", "SingleRows"] = Field(
        "Padded", description="Which prompts share a batch where the model keeps their state; padding is on the left."
    )
    right_padding: bool = Field(
        True, description="Whether sequences of different length share a batch where no state is kept."
    )
    partial_gradients: bool = Field(
        False, description="Whether some weights of the decoder get no gradient from some batches."
    )
    logits_scaling: Literal["Multiplies"] | None = Field(
        None,
        description="What logits_scaling of the family's configuration does to its logits; absent: it divides them.",
    )


class ServedModel(Record):
    """One set of full weights."""

    name: str
    path: str
    dtype: Literal["float32", "bfloat16"]
    adapters: tuple[Adapter, ...] = ()
    forward_path: ForwardPath | None = Field(None, description="How the model is run; absent: the defaults.")
    bytes: int = Field(0, ge=0, description="Bytes of the weights and adapters on disk.")


class ServedTask(Record):
    """How one task is answered: by which model and adapter, with which prompt and labels."""

    name: str
    type: Literal["Classification", "Generation"]
    model: str
    adapter: str | None = None
    pieces: tuple[PromptPiece, ...]
    bos: tuple[int, ...] = Field((), description="Token ids before the first piece.")
    eos: int
    max_length: int = Field(ge=8, description="Largest length of prompt and answer together, in tokens.")
    labels: tuple[LabelIds, ...] = ()
    generation: GenerationSettings | None = None
    served_by: str = Field("", description="The group whose mixture answers, or `baseline`.")


class Bundle(Record):
    """Everything that a server needs besides the weights."""

    schema_: Literal["multitask.dev/bundle/v1"] = Field("multitask.dev/bundle/v1", alias="schema")
    revision: str
    models: tuple[ServedModel, ...]
    tasks: tuple[ServedTask, ...]
