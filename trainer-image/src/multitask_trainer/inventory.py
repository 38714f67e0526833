"""Which results lie in a model's storage."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

import fsspec
from pydantic import ValidationError

from multitask_api.stage_io.manifest import MANIFEST, Manifest
from multitask_trainer.storage import reaching

MOST = 5000
"""Manifests that are read, the newest ones: a graph has a few hundred."""
_TIMES = ("mtime", "LastModified", "last_modified", "updated", "created")


def results(storage: str) -> list[Manifest]:
    """The manifests below ``<storage>/stages``, newest first; a folder whose files are not all there is no result."""
    fs, root = fsspec.url_to_fs(f"{storage.rstrip('/')}/stages")
    fs.invalidate_cache()  # listings are remembered, and other pods write
    with reaching(storage):
        listing: dict[str, Any] = fs.find(root, detail=True)
        paths = [path for path in listing if path.rsplit("/", 1)[-1] == MANIFEST]
        newest = sorted(paths, key=lambda path: _time(listing[path]), reverse=True)[:MOST]
        texts: dict[str, bytes] = fs.cat(newest, on_error="omit") if newest else {}
    sizes = {path: entry["size"] for path, entry in listing.items()}
    return list(_whole(root, [(path, texts[path]) for path in newest if path in texts], sizes))


def _whole(root: str, texts: list[tuple[str, bytes]], sizes: Mapping[str, int]) -> Iterator[Manifest]:
    for path, text in texts:
        folder = path.rsplit("/", 1)[0]
        try:
            manifest = Manifest.model_validate_json(text)
        except ValidationError:
            sys.stderr.write(f"{path} cannot be read and counts as no result; delete {folder} to have it redone\n")
            continue
        content = f"{folder}/{manifest.folder}" if manifest.folder else folder
        is_here = f"{root}/{manifest.stage}/{manifest.digest}" == folder
        if is_here and all(sizes.get(f"{content}/{name}") == entry.bytes for name, entry in manifest.files.items()):
            yield manifest


def _time(entry: Mapping[str, Any]) -> float:
    """When a file was written, in Unix seconds; every kind of store says it in its own way."""
    found = next((entry[key] for key in _TIMES if entry.get(key) is not None), 0.0)
    return float(found.timestamp() if hasattr(found, "timestamp") else found)
