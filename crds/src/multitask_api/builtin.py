"""The names of the built-in base models: small Llama-style decoders, initialised at random (the trainer makes them)."""

from __future__ import annotations

SCHEME = "builtin://"
SIZES = ("micro", "tiny", "small", "50m", "500m")


def is_builtin(uri: str) -> bool:
    """Whether a base model is made here."""
    return uri.startswith(SCHEME)


def size_fault(uri: str) -> str | None:
    """What is wrong with a ``builtin://`` address; None when nothing is."""
    size = uri.removeprefix(SCHEME)
    return None if size in SIZES else f"no built-in base is called {size!r}; the sizes are {', '.join(SIZES)}"
