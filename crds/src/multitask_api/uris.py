"""URIs of data, storage and base models: the supported schemes, and what is wrong with a URI."""

from __future__ import annotations

import difflib
import posixpath
import re
from collections.abc import Sequence

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")
_PVC = re.compile(r"^pvc://[a-z0-9]([-a-z0-9.]*[a-z0-9])?(/.*)?$")
_HUB = re.compile(r"^hf://(datasets/)?[\w.-]+(/[\w.-]+)?(@[^/]+)?(/.+)?$")

_HUB_BASE_MODEL = re.compile(r"^hf://[\w.-]+(/[\w.-]+)?$")

GGUF_FILE, GGUF_PART = r"^[^/]+(/[^/]+)*[.]gguf$", r"-[0-9]{5}-of-[0-9]{5}[.]gguf$"
"""The name of a GGUF file below its folder, and what ends that of a part of a split one."""

BUILTIN_SCHEME = "builtin://"
BUILTIN_SIZES = ("micro", "tiny", "small", "50m", "500m")
"""The built-in base models: small Llama-style decoders with random weights, created by the trainer."""

STORAGE_SCHEMES = ("file", "s3", "gs", "pvc")
DATA_SCHEMES = ("file", "hf", "s3", "gs", "pvc")
BASE_MODEL_SCHEMES = ("builtin", "file", "hf", "s3", "gs", "pvc")


def scheme_of(uri: str) -> str | None:
    """The scheme in lower case; None for a plain path."""
    match = _SCHEME.match(uri)
    return match[1].lower() if match else None


def overlap(one: str, other: str) -> bool:
    """Whether two URIs are the same folder or one lies below the other, however their slashes are written."""
    parts, others = _parts(one), _parts(other)
    shorter = min(len(parts), len(others))
    return parts[:shorter] == others[:shorter]


def base_model_uri_error(uri: str) -> str | None:
    """What is wrong with the URI of a base model; None if nothing is. On the hub it is a whole repository."""
    error = uri_error(uri, BASE_MODEL_SCHEMES)
    if error is not None:
        return error
    if uri.startswith("hf://datasets/"):
        return f"{uri!r} names a dataset; give a model, hf://ORGANISATION/NAME"
    if _HUB_BASE_MODEL.match(uri):
        return None
    if uri.endswith(".gguf"):
        folder, _, file = uri.rpartition("/")
        return f"{uri!r} names a GGUF file; write uri: {folder or '.'} and ggufFile: {file}"
    if scheme_of(uri) != "hf":
        return None
    name, _, revision = uri.partition("@")
    if revision and "/" not in revision:
        return f"{uri!r} contains a revision; write uri: {name} and revision: {revision}"
    return f"{uri!r} names a part of a repository; give a whole one, hf://ORGANISATION/NAME"


def gguf_file_error(name: str) -> str | None:
    """What is wrong with the name of a GGUF file in the folder or repository of a base model; None if nothing is."""
    if not re.search(GGUF_FILE, name) or ".." in name.split("/"):
        return f"{name!r} is no name of a GGUF file; write NAME.gguf, or FOLDER/NAME.gguf below baseModel.uri"
    if re.search(GGUF_PART, name):
        return f"{name!r} is one part of a split model; join the parts first: llama-gguf-split --merge {name} NAME.gguf"
    return None


def is_builtin(uri: str) -> bool:
    """Whether the trainer creates the base model instead of reading it."""
    return uri.startswith(BUILTIN_SCHEME)


def builtin_uri_error(uri: str) -> str | None:
    """What is wrong with a ``builtin://`` URI; None if nothing is."""
    size = uri.removeprefix(BUILTIN_SCHEME)
    if size in BUILTIN_SIZES:
        return None
    return f"there is no built-in model {size!r}; the sizes are {', '.join(BUILTIN_SIZES)}"


def is_folder(base: str) -> bool:
    """Whether a base model is a folder of files: neither built in nor on the hub, where a revision identifies it."""
    return scheme_of(base) not in ("builtin", "hf")


def uri_error(uri: str, schemes: Sequence[str]) -> str | None:
    """What is wrong with ``uri`` where ``schemes`` and plain paths are allowed; None if nothing is."""
    scheme = scheme_of(uri)
    if scheme is None:
        return "the path is empty; give a file or folder" if not uri.strip() else None
    if scheme not in schemes:
        known = ", ".join(f"{name}://" for name in schemes)
        meant = difflib.get_close_matches(scheme, schemes, n=1)
        hint = f"did you mean {meant[0]}://? Supported" if meant else "supported"
        return f"unknown scheme {scheme}://; {hint}: {known} and plain paths"
    if scheme == "builtin":
        return builtin_uri_error(uri)
    if scheme == "pvc" and not _PVC.match(uri):
        return f"{uri!r} does not name a PersistentVolumeClaim; write pvc://CLAIM/PATH"
    if scheme == "hf" and not _HUB.match(uri):
        return f"{uri!r} does not name a hub repository; write hf://ORGANISATION/NAME"
    if not uri.split("://", 1)[1].strip("/"):
        return f"{uri!r} has no path; add one"
    return None


def _parts(uri: str) -> list[str]:
    path = posixpath.normpath(uri.partition("://")[2] if scheme_of(uri) else uri)
    return [scheme_of(uri) or "file", *(part for part in path.split("/") if part not in ("", "."))]
