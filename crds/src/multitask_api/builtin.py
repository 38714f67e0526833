"""The built-in base models: small Llama-style decoders, initialised at random, known by their size."""

from __future__ import annotations

from dataclasses import dataclass

SCHEME = "builtin://"


@dataclass(frozen=True)
class Architecture:
    """The shape of a decoder; ``vocabulary`` is an upper bound, reached only if the text has that many pieces."""

    hidden: int
    layers: int
    heads: int
    ffn: int
    vocabulary: int


ARCHITECTURES = {
    "micro": Architecture(hidden=64, layers=2, heads=4, ffn=172, vocabulary=512),
    "tiny": Architecture(hidden=96, layers=2, heads=4, ffn=256, vocabulary=4096),
    "small": Architecture(hidden=128, layers=4, heads=4, ffn=344, vocabulary=4096),
    "50m": Architecture(hidden=512, layers=12, heads=8, ffn=1408, vocabulary=16384),
    "500m": Architecture(hidden=1280, layers=24, heads=20, ffn=3456, vocabulary=32768),
}


def architecture(uri: str) -> Architecture:
    """The architecture of ``builtin://SIZE``; ValueError names the sizes there are."""
    size = uri.removeprefix(SCHEME)
    if size not in ARCHITECTURES:
        raise ValueError(f"no built-in base is called {size!r}; the sizes are {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[size]
