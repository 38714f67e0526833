"""Data addresses, and what is known of a file at one: how to open it, and a token that changes when the file changes.

An address is a path (relative to the data root), ``file://``, ``pvc://CLAIM/PATH`` (a mounted claim, or the folder that
replaces it), or any other fsspec address of a file or a folder. ``hf://`` addresses of files are passed on to fsspec
in the hub's own spelling; those of splits are read by ``hub``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from multitask_api.cluster import MOUNTS_VARIABLE
from multitask_api.uris import scheme_of
from multitask_trainer.errors import DataError


@dataclass(frozen=True)
class DataLocations:
    """The folders of relative addresses and of claims on this machine."""

    root: Path = Path()
    mounts: Mapping[str, Path] = field(default_factory=dict)

    @classmethod
    def of(cls, root: str | Path, environment: Mapping[str, str]) -> DataLocations:
        """The data root, and the claims that ``MULTITASK_MOUNTS`` (JSON: claim → folder) names in a pod or a run."""
        mounts = json.loads(environment.get(MOUNTS_VARIABLE, "{}"))
        return cls(Path(root), {claim: Path(path) for claim, path in mounts.items()})

    def local_path(self, uri: str) -> Path | None:
        """The local path of an address; None for a remote one. Raises DataError for a claim that is not mounted."""
        scheme = scheme_of(uri)
        if scheme == "file":
            return Path(uri.removeprefix("file://"))
        if scheme == "pvc":
            claim, _, path = uri.removeprefix("pvc://").partition("/")
            if claim not in self.mounts:
                raise DataError(
                    f"{uri}: no folder stands for claim {claim!r} here; add --claim {claim}=DIR to the command"
                )
            return self.mounts[claim] / path
        return self.root / uri if scheme is None else None


@dataclass(frozen=True)
class DataFile:
    """One file of rows."""

    name: str
    format: str
    compression: str | None
    size: int
    version_token: str | None
    """Changes whenever the content does: size, inode and times of a local file, or an etag. None: nothing tells."""
    changed_at: float | None
    """When a local file last changed, in seconds since the epoch; None for others."""
    open_raw: Callable[[], IO[bytes]]
