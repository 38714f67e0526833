"""Lists the results in a model's storage."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

import fsspec
from pydantic import ValidationError

from multitask_api.stage_io.manifest import MANIFEST, Manifest
from multitask_trainer.storage.uris import storage_errors

MAX_MANIFESTS = 5000
"""Manifests that are read, the newest ones: a graph has a few hundred."""
_TIME_KEYS = ("mtime", "LastModified", "last_modified", "updated", "created")


def stored_results(storage: str) -> list[Manifest]:
    """The manifests below ``<storage>/stages``, newest first; a folder with missing files is no result."""
    fs, root = fsspec.url_to_fs(f"{storage.rstrip('/')}/stages")
    fs.invalidate_cache()  # fsspec caches listings, and other pods write
    with storage_errors(storage):
        listing: dict[str, Any] = fs.find(root, detail=True)
        paths = [path for path in listing if path.rsplit("/", 1)[-1] == MANIFEST]
        newest = sorted(paths, key=lambda path: _modified_at(listing[path]), reverse=True)[:MAX_MANIFESTS]
        texts: dict[str, bytes] = fs.cat(newest, on_error="omit") if newest else {}
    sizes = {path: entry["size"] for path, entry in listing.items()}
    return list(_complete(root, [(path, texts[path]) for path in newest if path in texts], sizes))


def _complete(root: str, texts: list[tuple[str, bytes]], sizes: Mapping[str, int]) -> Iterator[Manifest]:
    for path, text in texts:
        folder = path.rsplit("/", 1)[0]
        try:
            manifest = Manifest.model_validate_json(text)
        except ValidationError:
            sys.stderr.write(f"{path} cannot be read and counts as no result; delete {folder} to have it redone\n")
            continue
        content = f"{folder}/{manifest.folder}" if manifest.folder else folder
        is_at_its_path = f"{root}/{manifest.stage}/{manifest.digest}" == folder
        if is_at_its_path and all(
            sizes.get(f"{content}/{name}") == entry.bytes for name, entry in manifest.files.items()
        ):
            yield manifest


def _modified_at(entry: Mapping[str, Any]) -> float:
    """When a file was written, in Unix seconds; every kind of store has its own key for it."""
    modified = next((entry[key] for key in _TIME_KEYS if entry.get(key) is not None), 0.0)
    return float(modified.timestamp() if hasattr(modified, "timestamp") else modified)
