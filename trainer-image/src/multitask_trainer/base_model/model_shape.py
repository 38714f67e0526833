"""The shape of a base model, where it can be known without loading it; for estimates of memory and time."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from multitask_api.estimates.shape import ModelShape
from multitask_api.uris import scheme_of
from multitask_trainer.base_model.builtin import SIZES
from multitask_trainer.data.locations import DataLocations

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def model_shape(uri: str, revision: str | None, locations: DataLocations) -> ModelShape | None:
    """The shape of a builtin size at most, of a folder or a hub model as its ``config.json`` says.

    None if it is not known: for other addresses and families, or if the file cannot be read. The stage ``base`` knows
    it then.
    """
    scheme, _, rest = uri.partition("://")
    if scheme == "builtin":
        return _of_size(rest)
    if scheme_of(uri) == "hf":
        from multitask_trainer.data.hub import model_config

        return ModelShape.of_config(model_config(rest.strip("/"), revision))
    folder = locations.local_path(uri)
    if folder is None:
        return None
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return ModelShape.of_config(config) if isinstance(config, dict) else None


def shape_of(model: PreTrainedModel) -> ModelShape | None:
    """The shape of a model that is loaded; None if its family is not one that is estimated."""
    config: dict[str, Any] = model.config.to_dict()
    return ModelShape.of_config(config)


def _of_size(name: str) -> ModelShape | None:
    size = SIZES.get(name)
    if size is None:
        return None
    return ModelShape(
        family="llama",
        layers=size.layers,
        width=size.width,
        feed_forward=size.feed_forward,
        heads=size.heads,
        key_value_heads=size.heads,
        head_size=size.width // size.heads,
        vocabulary=size.vocabulary,
        tied=True,
    )
