"""Data addresses: the files at one, how to open them, and a token that changes when a file changes.

An address is a path (relative to the data root), ``file://``, ``pvc://CLAIM/PATH`` (a mounted claim, or the folder that
replaces it), or any other fsspec address of a file or a folder. ``hf://`` addresses of files are passed on to fsspec
in the hub's own spelling; those of splits are read by ``hub``.
"""

from __future__ import annotations

import difflib
import gzip
import json
import lzma
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

from multitask_api.cluster import MOUNTS_VARIABLE
from multitask_api.uris import scheme_of
from multitask_trainer.errors import DataError

FORMATS = ("jsonl", "csv", "parquet")
COMPRESSIONS = ("gz", "xz")
KNOWN_SUFFIXES = ".jsonl, .jsonl.gz, .csv or .parquet"
VERSION_KEYS = ("ETag", "etag", "md5Hash", "blob_id")
"""What stores tell of a file's content. Times are not among them: of some stores they have whole seconds only."""


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

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """The content, uncompressed."""
        with self.open_raw() as raw:
            if self.compression is None:
                yield raw
                return
            with gzip.GzipFile(fileobj=raw) if self.compression == "gz" else lzma.open(raw) as unpacked:
                yield cast("IO[bytes]", unpacked)


def format_of(name: str) -> tuple[str, str | None] | None:
    """``(format, compression)`` by a file's name; None when it is not a data file."""
    parts = name.lower().split(".")
    compression = parts.pop() if parts[-1] in COMPRESSIONS else None
    known = len(parts) > 1 and parts[-1] in FORMATS and not (compression and parts[-1] == "parquet")
    return (parts[-1], compression) if known else None


def files_at(uri: str, locations: DataLocations) -> list[DataFile]:
    """The data files at an address, sorted by name. Raises DataError that names what is at the address instead."""
    local = locations.local_path(uri)
    return _local_files(uri, local) if local is not None else _remote_files(uri)


def files_below(uri: str, locations: DataLocations) -> dict[str, DataFile]:
    """Relative name → file, by name, of all files in a folder but hidden ones. Raises DataError if there is no folder.

    The files are those of a model, so their formats are not checked.
    """
    local = locations.local_path(uri)
    if local is None:
        fs, path, _, entries = _listing(uri)
        named = {name.removeprefix(path).lstrip("/"): entries[name] for name in sorted(entries)}
        kept = {name: _remote_file(f"{uri.rstrip('/')}/{name}", fs, named[name], ("", None)) for name in named}
    elif local.is_dir():
        paths = {item.relative_to(local).as_posix(): item for item in sorted(local.rglob("*")) if item.is_file()}
        kept = {name: _local_file(f"{uri.rstrip('/')}/{name}", path, ("", None)) for name, path in paths.items()}
    else:
        raise DataError(f"{uri}: no such folder ({local.absolute()}){_path_hint(local)}")
    shown = {name: file for name, file in kept.items() if not any(part.startswith(".") for part in name.split("/"))}
    if not shown:
        raise DataError(f"{uri}: no file in this folder; give the folder that holds the model's config.json")
    return shown


def _local_files(uri: str, path: Path) -> list[DataFile]:
    if path.is_dir():
        names = sorted(item for item in path.rglob("*") if item.is_file())
        shown = {item: item.relative_to(path).as_posix() for item in names}
        kept = [item for item in names if _is_data_file(shown[item])]
        if not kept:
            raise DataError(_no_data_message(uri, list(shown.values())))
        return [_local_file(f"{uri.rstrip('/')}/{shown[item]}", item) for item in kept]
    if not path.exists():
        raise DataError(f"{uri}: no such file or folder ({path.absolute()}){_path_hint(path)}")
    return [_local_file(uri, path)]


def _local_file(name: str, path: Path, kind: tuple[str, str | None] | None = None) -> DataFile:
    stat = path.stat()
    # Programs can set mtime, and copy it from another file; ctime and the inode they cannot.
    token = f"{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ctime_ns}:{stat.st_ino}"
    return _data_file(name, stat.st_size, token, max(stat.st_mtime, stat.st_ctime), lambda: path.open("rb"), kind)


def _remote_files(uri: str) -> list[DataFile]:
    fs, path, entry, entries = _listing(uri)
    if entry["type"] == "file":
        return [_remote_file(uri, fs, entry)]
    shown = {name: name.removeprefix(path).lstrip("/") for name in sorted(entries)}
    kept = [name for name in shown if _is_data_file(shown[name])]
    if not kept:
        raise DataError(_no_data_message(uri, list(shown.values())))
    return [_remote_file(f"{uri.rstrip('/')}/{shown[name]}", fs, entries[name]) for name in kept]


def _listing(uri: str) -> tuple[Any, str, Mapping[str, Any], dict[str, Any]]:
    """The file system, the path in it, its entry, and all files below it. Raises DataError."""
    import fsspec

    try:
        fs, path = fsspec.url_to_fs(uri)
        entry = fs.info(path)
        return fs, path, entry, {} if entry["type"] == "file" else fs.find(path, detail=True)
    except ImportError as error:
        raise DataError(f"{uri}: {error}; install it to read {scheme_of(uri)}:// addresses") from error
    except FileNotFoundError as error:
        raise DataError(f"{uri}: no such file or folder; check the address and its spelling") from error
    except PermissionError as error:
        raise DataError(f"{uri}: access denied ({error}); check the credentials") from error


def _remote_file(name: str, fs: Any, entry: Mapping[str, Any], kind: tuple[str, str | None] | None = None) -> DataFile:
    versions = [str(entry[key]) for key in VERSION_KEYS if entry.get(key) is not None]
    token = ":".join([str(entry["size"]), *versions]) if versions else None
    return _data_file(name, entry["size"] or 0, token, None, lambda: fs.open(entry["name"], "rb"), kind)


def _data_file(
    name: str,
    size: int,
    version_token: str | None,
    changed_at: float | None,
    open_raw: Callable[[], IO[bytes]],
    kind: tuple[str, str | None] | None,
) -> DataFile:
    file_format = kind or format_of(name.rsplit("/", 1)[-1])
    if file_format is None:
        raise DataError(f"{name}: not a data file by its name; rename or convert it to {KNOWN_SUFFIXES}")
    return DataFile(name, file_format[0], file_format[1], size, version_token, changed_at, open_raw)


def _is_data_file(name: str) -> bool:
    """Data files of a folder; hidden files and markers such as ``_SUCCESS`` are passed over."""
    return not any(part[0] in "._" for part in name.split("/") if part) and format_of(name) is not None


def _no_data_message(uri: str, names: list[str]) -> str:
    content = f"it holds {', '.join(names[:5])}{', …' if len(names) > 5 else ''}" if names else "it is empty"
    return f"{uri}: no {KNOWN_SUFFIXES} file in this folder; {content}"


def _path_hint(path: Path) -> str:
    """A hint at what was probably meant, or at the folder that is missing."""
    if not path.parent.is_dir():
        return "; its folder does not exist either: relative addresses start at the folder of the resource file"
    names = [item.name for item in path.parent.iterdir()]
    matches = difflib.get_close_matches(path.name, names, n=1)
    return f"; did you mean {matches[0]}?" if matches else "; check the address and its spelling"
