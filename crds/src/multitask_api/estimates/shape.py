"""The shape of a base model, from its ``config.json``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from pydantic import Field

from multitask_api.types import JsonObject, Record

#: Families of decoders with RMSNorm, rotary attention and a gated feed-forward network: the layout that is estimated.
FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3"})
#: Families whose queries, keys and values have a bias.
_BIASED = frozenset({"qwen2"})
#: Families that normalise queries and keys.
_NORMALISED = frozenset({"qwen3"})
#: Families whose window is used only if ``use_sliding_window`` says so, and only from layer ``max_window_layers`` on.
_WITH_OPTIONAL_WINDOW = frozenset({"qwen2", "qwen3"})
#: Of transformers' configurations, where ``config.json`` has none.
_WINDOW, _LAYERS_WITHOUT_WINDOW = 4096, 28


class Projection(NamedTuple):
    """A linear layer of a decoder layer: (out, in) weights."""

    name: str
    inputs: int
    outputs: int


class ModelShape(Record):
    """A dense decoder of one of `FAMILIES`, in the names of this project; in brackets those of ``config.json``."""

    family: str = Field(description="The family (model_type).")
    layers: int = Field(ge=1, description="Decoder layers (num_hidden_layers).")
    width: int = Field(ge=1, description="Width of the hidden states (hidden_size).")
    feed_forward: int = Field(ge=1, description="Width inside the feed-forward network (intermediate_size).")
    heads: int = Field(ge=1, description="Attention heads (num_attention_heads).")
    key_value_heads: int = Field(ge=1, description="Heads of keys and values (num_key_value_heads).")
    head_size: int = Field(ge=1, description="Width of a head (head_dim).")
    vocabulary: int = Field(ge=1, description="Rows of the embedding (vocab_size).")
    tied: bool = Field(description="The head uses the embedding's weights (tie_word_embeddings).")
    window: int | None = Field(
        None, ge=1, description="Tokens that the layers with a window see (sliding_window). Absent: all see all."
    )
    attention_dropout: float | None = Field(
        None, gt=0, description="Part of the attention weights that are dropped in training. Absent: none."
    )

    @classmethod
    def of_config(cls, config: JsonObject) -> ModelShape | None:
        """From the content of ``config.json``; None for a family that is not estimated, or if a size is missing."""
        family = config.get("model_type")
        if family not in FAMILIES or config.get("quantization_config"):
            return None
        try:
            width, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
            return cls(
                family=family,
                layers=config["num_hidden_layers"],
                width=width,
                feed_forward=config["intermediate_size"],
                heads=heads,
                key_value_heads=config.get("num_key_value_heads") or heads,
                head_size=config.get("head_dim") or width // heads,
                vocabulary=config["vocab_size"],
                tied=bool(config.get("tie_word_embeddings", False)),
                window=_window(config),
                attention_dropout=config.get("attention_dropout") or None,
            )
        except (KeyError, TypeError, ValueError, ZeroDivisionError):
            return None

    @property
    def queries(self) -> int:
        """Width of all queries, and of what attention gives."""
        return self.heads * self.head_size

    @property
    def keys(self) -> int:
        """Width of all keys, and of all values."""
        return self.key_value_heads * self.head_size

    def projections(self) -> Iterator[Projection]:
        """The linear layers of one decoder layer."""
        yield Projection("q_proj", self.width, self.queries)
        yield Projection("k_proj", self.width, self.keys)
        yield Projection("v_proj", self.width, self.keys)
        yield Projection("o_proj", self.queries, self.width)
        yield Projection("gate_proj", self.width, self.feed_forward)
        yield Projection("up_proj", self.width, self.feed_forward)
        yield Projection("down_proj", self.feed_forward, self.width)

    @property
    def linear_weights(self) -> int:
        """Weights of the linear layers of all decoder layers."""
        return self.layers * sum(each.inputs * each.outputs for each in self.projections())

    @property
    def embedding_weights(self) -> int:
        """Weights of the embedding, or of the head."""
        return self.vocabulary * self.width

    @property
    def normalises_heads(self) -> bool:
        """Whether queries and keys are normalised."""
        return self.family in _NORMALISED

    @property
    def parameters(self) -> int:
        """Weights in all."""
        biases = self.queries + 2 * self.keys if self.family in _BIASED else 0
        norms = 2 * self.width + (2 * self.head_size if self.normalises_heads else 0)
        embeddings = self.embedding_weights * (1 if self.tied else 2)
        return self.linear_weights + self.layers * (norms + biases) + embeddings + self.width


def _window(config: JsonObject) -> int | None:
    """Tokens that the narrowest layer sees, as transformers reads ``config``; None if all see everything."""
    family, kinds = config["model_type"], config.get("layer_types")
    if kinds and "sliding_attention" not in kinds:
        return None
    if family not in _WITH_OPTIONAL_WINDOW:
        return config.get("sliding_window", _WINDOW if family == "mistral" else None) or None
    if not config.get("use_sliding_window"):
        return None
    if not kinds and config.get("max_window_layers", _LAYERS_WITHOUT_WINDOW) >= config["num_hidden_layers"]:
        return None
    return config.get("sliding_window", _WINDOW) or None
