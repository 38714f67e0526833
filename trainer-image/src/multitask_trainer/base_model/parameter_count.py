"""The number of weights of a base model, where it can be known without loading it."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

from multitask_api.uris import scheme_of
from multitask_trainer.base_model.builtin import SIZES, Size
from multitask_trainer.base_model.gguf_file import count_weights
from multitask_trainer.data.locations import DataLocations

_LONGEST_HEADER = 100_000_000
"""Bytes: the format's own limit for the header of a safetensors file."""


def parameter_count(
    uri: str, revision: str | None, locations: DataLocations, gguf_file: str | None = None
) -> int | None:
    """The number of weights: of a builtin size at most, of a folder or a hub model as its safetensors files say.

    With ``gguf_file`` as that file of the folder says.

    None if it is not known: for other addresses and formats, or if they cannot be read. The stage ``base`` counts then.
    """
    scheme, _, rest = uri.partition("://")
    if scheme == "builtin":
        return _of_size(SIZES[rest]) if rest in SIZES else None
    if gguf_file is not None:
        folder = locations.local_path(uri)
        return count_weights(folder / gguf_file) if folder else None
    if scheme_of(uri) == "hf":
        from multitask_trainer.data.hub import model_parameters

        return model_parameters(rest.strip("/"), revision)
    folder = locations.local_path(uri)
    if folder is None:
        return None
    try:
        counts = [_in_file(path) for path in sorted(folder.glob("*.safetensors"))]
    except (OSError, ValueError, struct.error):
        return None
    return sum(counts) or None


def _of_size(size: Size) -> int:
    """Weights of a Llama-style decoder with tied embeddings: per layer 4 attention and 3 feed-forward matrices."""
    layer = 4 * size.width**2 + 3 * size.width * size.feed_forward + 2 * size.width
    return size.vocabulary * size.width + size.layers * layer + size.width


def _in_file(path: Path) -> int:
    """The elements of a file's tensors, from its header: 8 bytes of length, then JSON with a shape each."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > _LONGEST_HEADER:
            raise ValueError(f"{path}: not a safetensors file")
        header = json.loads(file.read(length))
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
