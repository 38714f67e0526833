"""Fingerprints of the content at an address: they change with the rows, and with nothing else."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path

from multitask_api.errors import RetryableError, UserError
from multitask_api.stage_io.manifest import ResolvedData
from multitask_api.stages.digests import digest
from multitask_api.uris import scheme_of
from multitask_trainer.data.listing import files_at, files_below
from multitask_trainer.data.locations import DataFile, DataLocations
from multitask_trainer.storage.files import write_atomically

FINGERPRINT = 16
RECENT_SECONDS = 5.0
"""How long after a change a file's hash is not kept: longer than a tick of any file system's clock."""


class HashCache:
    """Content hashes by (name, version token): a file is hashed again if anything of its token has changed.

    A file that changed a moment ago is hashed the next time again, because another change may get the same times: a
    clock of a file system ticks a hundred times a second, or every two seconds. So is one whose token is None.
    Without a path the cache is empty, and is not saved. ``now`` gives the time in seconds since the epoch; ``on_bytes``
    is called with the number of bytes that were hashed since the last call.
    """

    def __init__(
        self,
        path: Path | None = None,
        now: Callable[[], float] = time.time,
        on_bytes: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._on_bytes = on_bytes
        self._path = path
        self._now = now
        self._known: dict[str, str] = _read_cache(path) if path else {}
        self._used: dict[str, str] = {}

    def sha256(self, file: DataFile, root: Path) -> str:
        """SHA-256 of the file's bytes as they are stored."""
        name = file.name if scheme_of(file.name) else str((root / file.name).absolute())
        key = f"{name}|{file.version_token}"
        known = self._used.get(key) or self._known.get(key)
        if known is not None and file.version_token is not None:
            self._used[key] = known
            return known
        begun = self._now()
        computed = _hash(file, self._on_bytes)
        if file.version_token is not None and (file.changed_at is None or file.changed_at < begun - RECENT_SECONDS):
            self._used[key] = computed
        return computed

    def save(self) -> None:
        """Write the hashes that this run used, and the older ones that it did not need."""
        if self._path is not None:
            write_atomically(self._path, json.dumps(self._known | self._used, indent=0, sort_keys=True))


def resolve_data(uri: str, locations: DataLocations, cache: HashCache) -> ResolvedData:
    """One address: its content's fingerprint, or the problem with it.

    The fingerprint covers each file's format and content, in the order of the names, but no name and no address:
    the same rows elsewhere are the same rows.
    """
    try:
        if scheme_of(uri) == "hf":
            return _resolve_hub(uri)
        files = files_at(uri, locations)
        hashes = [[file.format, file.compression or "", cache.sha256(file, locations.root)] for file in files]
    except PermissionError as error:
        return ResolvedData(problem=f"no permission to read {error.filename or 'it'}; change its mode or owner")
    except (UserError, RetryableError, OSError) as error:
        return ResolvedData(problem=str(error).removeprefix(f"{uri}: "))
    size = sum(file.size for file in files)
    return ResolvedData(fingerprint=digest(hashes, FINGERPRINT), files=len(files), bytes=size)


def resolve_folder(uri: str, locations: DataLocations, cache: HashCache, only: str | None = None) -> ResolvedData:
    """A folder as a whole, such as a base model's: a fingerprint of its files' names and content, or the problem.

    ``only``: of this file alone.
    """
    try:
        files = files_below(uri, locations, only)
        hashes = [[name, cache.sha256(file, locations.root)] for name, file in files.items()]
    except PermissionError as error:
        return ResolvedData(problem=f"no permission to read {error.filename or 'it'}; change its mode or owner")
    except (UserError, RetryableError, OSError) as error:
        return ResolvedData(problem=str(error).removeprefix(f"{uri}: "))
    size = sum(file.size for file in files.values())
    return ResolvedData(fingerprint=digest(hashes, FINGERPRINT), files=len(files), bytes=size)


def _resolve_hub(uri: str) -> ResolvedData:
    from multitask_trainer.data.hub import HubData, resolve_revision

    data = HubData.of(uri)
    commit = resolve_revision(data.dataset, data.revision, "dataset")
    return ResolvedData(fingerprint=digest([data.dataset, commit, data.rest], FINGERPRINT), files=1)


def _hash(file: DataFile, on_bytes: Callable[[int], None]) -> str:
    sha = hashlib.sha256()
    with file.open_raw() as content:
        while block := content.read(1 << 20):
            sha.update(block)
            on_bytes(len(block))
    return sha.hexdigest()


def _read_cache(path: Path) -> dict[str, str]:
    """A cache that cannot be read is an empty one: it only saves time."""
    try:
        known = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(key): str(value) for key, value in known.items()} if isinstance(known, dict) else {}
