"""Data addresses: which files stand behind one, how they are opened, and how to tell that one has changed.

An address is a path (relative to the data root), ``file://``, ``pvc://CLAIM/PATH`` (a mounted claim, or the folder that
stands for it), or any other fsspec address of a file or a folder. ``hf://`` addresses of files are passed on to fsspec
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
KNOWN = ".jsonl, .jsonl.gz, .csv or .parquet"
#: What file systems say about a file that changes with its content, each in its own words.
STAMPS = ("size", "ETag", "etag", "mtime", "LastModified", "last_modified", "updated", "created", "blob_id", "md5Hash")


@dataclass(frozen=True)
class Places:
    """Where relative addresses and claims are on this machine."""

    root: Path = Path()
    mounts: Mapping[str, Path] = field(default_factory=dict)

    @classmethod
    def of(cls, root: str | Path, environment: Mapping[str, str]) -> Places:
        """The data root, and the claims that ``MULTITASK_MOUNTS`` (JSON: claim → folder) names in a pod or a run."""
        mounts = json.loads(environment.get(MOUNTS_VARIABLE, "{}"))
        return cls(Path(root), {claim: Path(path) for claim, path in mounts.items()})

    def local(self, address: str) -> Path | None:
        """The local path of an address; None for a remote one. Raises DataError for a claim that is not mounted."""
        scheme = scheme_of(address)
        if scheme == "file":
            return Path(address.removeprefix("file://"))
        if scheme == "pvc":
            claim, _, path = address.removeprefix("pvc://").partition("/")
            if claim not in self.mounts:
                raise DataError(
                    f"{address}: no folder stands for claim {claim!r} here; add --claim {claim}=DIR to the command"
                )
            return self.mounts[claim] / path
        return self.root / address if scheme is None else None


@dataclass(frozen=True)
class DataFile:
    """One file of rows."""

    name: str
    format: str
    compression: str | None
    size: int
    stamp: str  # changes whenever the content does: size with mtime, or an etag
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


def files_at(address: str, places: Places) -> list[DataFile]:
    """The data files at an address, sorted by name. Raises DataError that says what is there instead."""
    local = places.local(address)
    return _local_files(address, local) if local is not None else _remote_files(address)


def files_below(address: str, places: Places) -> dict[str, DataFile]:
    """Relative name → file, by name, of all files in a folder but hidden ones. Raises DataError if there is no folder.

    Their formats do not matter here: the files are those of a model.
    """
    local = places.local(address)
    if local is None:
        fs, path, _, found = _listing(address)
        named = {name.removeprefix(path).lstrip("/"): found[name] for name in sorted(found)}
        kept = {name: _remote_file(f"{address.rstrip('/')}/{name}", fs, named[name], ("", None)) for name in named}
    elif local.is_dir():
        paths = {item.relative_to(local).as_posix(): item for item in sorted(local.rglob("*")) if item.is_file()}
        kept = {name: _local_file(f"{address.rstrip('/')}/{name}", path, ("", None)) for name, path in paths.items()}
    else:
        raise DataError(f"{address}: no such folder ({local.absolute()}){_nearest(local)}")
    shown = {name: file for name, file in kept.items() if not any(part.startswith(".") for part in name.split("/"))}
    if not shown:
        raise DataError(f"{address}: no file in this folder; give the folder that holds the model's config.json")
    return shown


def _local_files(address: str, path: Path) -> list[DataFile]:
    if path.is_dir():
        names = sorted(item for item in path.rglob("*") if item.is_file())
        shown = {item: item.relative_to(path).as_posix() for item in names}
        kept = [item for item in names if _is_data(shown[item])]
        if not kept:
            raise DataError(_nothing_in(address, list(shown.values())))
        return [_local_file(f"{address.rstrip('/')}/{shown[item]}", item) for item in kept]
    if not path.exists():
        raise DataError(f"{address}: no such file or folder ({path.absolute()}){_nearest(path)}")
    return [_local_file(address, path)]


def _local_file(name: str, path: Path, kind: tuple[str, str | None] | None = None) -> DataFile:
    stat = path.stat()
    return _data_file(name, stat.st_size, f"{stat.st_size}:{stat.st_mtime_ns}", lambda: path.open("rb"), kind)


def _remote_files(address: str) -> list[DataFile]:
    fs, path, entry, found = _listing(address)
    if entry["type"] == "file":
        return [_remote_file(address, fs, entry)]
    shown = {name: name.removeprefix(path).lstrip("/") for name in sorted(found)}
    kept = [name for name in shown if _is_data(shown[name])]
    if not kept:
        raise DataError(_nothing_in(address, list(shown.values())))
    return [_remote_file(f"{address.rstrip('/')}/{shown[name]}", fs, found[name]) for name in kept]


def _listing(address: str) -> tuple[Any, str, Mapping[str, Any], dict[str, Any]]:
    """The file system, the path in it, what stands there, and all files below it. Raises DataError."""
    import fsspec

    try:
        fs, path = fsspec.url_to_fs(address)
        entry = fs.info(path)
        return fs, path, entry, {} if entry["type"] == "file" else fs.find(path, detail=True)
    except ImportError as error:
        raise DataError(f"{address}: {error}; install it to read {scheme_of(address)}:// addresses") from error
    except FileNotFoundError as error:
        raise DataError(f"{address}: no such file or folder; check the address and its spelling") from error
    except PermissionError as error:
        raise DataError(f"{address}: access denied ({error}); check the credentials") from error


def _remote_file(name: str, fs: Any, entry: Mapping[str, Any], kind: tuple[str, str | None] | None = None) -> DataFile:
    stamp = ":".join(str(entry[key]) for key in STAMPS if entry.get(key) is not None)
    return _data_file(name, entry["size"] or 0, stamp, lambda: fs.open(entry["name"], "rb"), kind)


def _data_file(
    name: str, size: int, stamp: str, open_raw: Callable[[], IO[bytes]], kind: tuple[str, str | None] | None
) -> DataFile:
    found = kind or format_of(name.rsplit("/", 1)[-1])
    if found is None:
        raise DataError(f"{name}: not a data file by its name; rename or convert it to {KNOWN}")
    return DataFile(name, found[0], found[1], size, stamp, open_raw)


def _is_data(name: str) -> bool:
    """Data files of a folder; hidden files and markers such as ``_SUCCESS`` are passed over."""
    return not any(part[0] in "._" for part in name.split("/") if part) and format_of(name) is not None


def _nothing_in(address: str, names: list[str]) -> str:
    found = f"it holds {', '.join(names[:5])}{', …' if len(names) > 5 else ''}" if names else "it is empty"
    return f"{address}: no {KNOWN} file in this folder; {found}"


def _nearest(path: Path) -> str:
    """A hint at what was probably meant, or at the folder that is missing."""
    if not path.parent.is_dir():
        return "; its folder does not exist either: relative addresses start at the folder of the resource file"
    names = [item.name for item in path.parent.iterdir()]
    matches = difflib.get_close_matches(path.name, names, n=1)
    return f"; did you mean {matches[0]}?" if matches else "; check the address and its spelling"
