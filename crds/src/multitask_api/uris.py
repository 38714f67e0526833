"""Addresses of data, storage and base models: the schemes there are, and what is wrong with one."""

from __future__ import annotations

import difflib
import posixpath
import re
from collections.abc import Sequence

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")
_CLAIM = re.compile(r"^pvc://[a-z0-9]([-a-z0-9.]*[a-z0-9])?(/.*)?$")
_HUB = re.compile(r"^hf://(datasets/)?[\w.-]+(/[\w.-]+)?(@[^/]+)?(/.+)?$")

_HUB_BASE = re.compile(r"^hf://[\w.-]+(/[\w.-]+)?$")

BUILTIN_SCHEME = "builtin://"
BUILTIN_SIZES = ("micro", "tiny", "small", "50m", "500m")
"""The built-in base models: small Llama-style decoders, initialised at random (the trainer makes them)."""

STORES = ("file", "s3", "gs", "pvc")
DATA_SCHEMES = ("file", "hf", "s3", "gs", "pvc")
BASE_SCHEMES = ("builtin", "file", "hf", "s3", "gs", "pvc")


def scheme_of(uri: str) -> str | None:
    """The scheme in lower case; None for a plain path."""
    match = _SCHEME.match(uri)
    return match[1].lower() if match else None


def overlap(one: str, other: str) -> bool:
    """Whether one of two addresses lies at the other or below it, however their slashes are written."""
    parts, others = _parts(one), _parts(other)
    shorter = min(len(parts), len(others))
    return parts[:shorter] == others[:shorter]


def base_model_uri_error(uri: str) -> str | None:
    """What is wrong with the address of a base model; None when nothing is. On the hub it is a whole repository."""
    fault = uri_error(uri, BASE_SCHEMES)
    if fault is not None or scheme_of(uri) != "hf":
        return fault
    if uri.startswith("hf://datasets/"):
        return f"{uri!r} names a dataset; a base is a model, hf://ORGANISATION/NAME"
    if _HUB_BASE.match(uri):
        return None
    name, _, revision = uri.partition("@")
    if revision and "/" not in revision:
        return f"{uri!r} names a revision; write uri: {name} and, beside it, revision: {revision}"
    return f"{uri!r} names a part of a repository; a base is a whole one, hf://ORGANISATION/NAME"


def is_builtin(uri: str) -> bool:
    """Whether a base model is made by the trainer instead of being read."""
    return uri.startswith(BUILTIN_SCHEME)


def builtin_uri_error(uri: str) -> str | None:
    """What is wrong with a ``builtin://`` address; None when nothing is."""
    size = uri.removeprefix(BUILTIN_SCHEME)
    if size in BUILTIN_SIZES:
        return None
    return f"no built-in base is called {size!r}; the sizes are {', '.join(BUILTIN_SIZES)}"


def is_folder(base: str) -> bool:
    """Whether a base model is a folder of files: neither made here nor on the hub, whose revision says what it is."""
    return scheme_of(base) not in ("builtin", "hf")


def uri_error(uri: str, schemes: Sequence[str]) -> str | None:
    """What is wrong with ``uri`` where ``schemes`` and plain paths are allowed; None when nothing is."""
    scheme = scheme_of(uri)
    if scheme is None:
        return "an empty path; give a file or folder" if not uri.strip() else None
    if scheme not in schemes:
        known = ", ".join(f"{name}://" for name in schemes)
        meant = difflib.get_close_matches(scheme, schemes, n=1)
        hint = f"did you mean {meant[0]}://? Known here" if meant else "known here"
        return f"unknown scheme {scheme}://; {hint}: {known} and plain paths"
    if scheme == "builtin":
        return builtin_uri_error(uri)
    if scheme == "pvc" and not _CLAIM.match(uri):
        return f"{uri!r} does not name a claim; write pvc://CLAIM/PATH"
    if scheme == "hf" and not _HUB.match(uri):
        return f"{uri!r} does not name a hub repository; write hf://ORGANISATION/NAME"
    if not uri.split("://", 1)[1].strip("/"):
        return f"{uri!r} names no path"
    return None


def _parts(uri: str) -> list[str]:
    path = posixpath.normpath(uri.partition("://")[2] if scheme_of(uri) else uri)
    return [scheme_of(uri) or "file", *(part for part in path.split("/") if part not in ("", "."))]
