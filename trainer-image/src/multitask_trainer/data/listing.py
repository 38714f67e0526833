"""The data files at an address. Every file of a folder is read, or known to hold no rows, or named in an error."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from multitask_api.uris import scheme_of
from multitask_trainer.data.file_names import (
    KNOWN_SUFFIXES,
    data_files,
    format_of,
    is_companion,
    is_hidden,
    why_not_data,
)
from multitask_trainer.data.locations import DataFile, DataLocations
from multitask_trainer.errors import DataError
from multitask_trainer.storage.uris import storage_errors

VERSION_KEYS = ("ETag", "etag", "md5Hash", "blob_id")
"""What stores tell of a file's content. Times are not among them: of some stores they have whole seconds only."""


def files_at(uri: str, locations: DataLocations) -> list[DataFile]:
    """The data files at an address, sorted by name.

    Raises DataError that names what is at the address instead, and the errors of `storage_errors` for remote ones.
    """
    local = locations.local_path(uri)
    if local is None:
        return _remote_files(uri)
    try:
        return _local_files(uri, local)
    except PermissionError as error:
        raise DataError(f"{uri}: no permission to read {error.filename or 'it'}; change its mode or owner") from error


def files_below(uri: str, locations: DataLocations, only: str | None = None) -> dict[str, DataFile]:
    """Relative name → file, by name, of all files in a folder but hidden ones, or of the GGUF file ``only``.

    The files are those of a model, so their formats are not checked. Raises DataError if there is no folder, or not
    that file.
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
    if only is not None:
        if only not in kept:
            raise DataError(f"{uri}: {missing_gguf(only, kept)}")
        return {only: kept[only]}
    shown = {name: file for name, file in kept.items() if not any(part.startswith(".") for part in name.split("/"))}
    if not shown:
        raise DataError(f"{uri}: no file in this folder; give the folder that holds the model's config.json")
    return shown


def missing_gguf(file: str, names: Iterable[str]) -> str:
    """That there is no GGUF file of this name among ``names``, and which there are."""
    others = sorted(name for name in names if name.endswith(".gguf"))
    shown = ", ".join(others[:10]) + (", …" if len(others) > 10 else "")
    return f"there is no {file}; " + (f"its GGUF files are {shown}" if others else "it has no GGUF file")


def _local_files(uri: str, path: Path) -> list[DataFile]:
    if path.is_dir():
        names = [item.relative_to(path).as_posix() for item in _walk(path, (path.resolve(),))]
        files = [name for name in names if (path / name).is_file()]
        known = set(files)
        others = [name for name in names if name not in known and not is_companion(name)]
        kept = _rows_of_folder(uri, files, [f"{name} is {_not_a_file(path / name)}" for name in others])
        return [_local_file(f"{uri.rstrip('/')}/{name}", path / name) for name in kept]
    if path.is_symlink() and not path.exists():
        raise DataError(f"{uri}: {_dangling(path)}")
    if not path.exists():
        raise DataError(f"{uri}: no such file or folder ({path.absolute()}){_path_hint(path)}")
    return [_local_file(uri, path)]


def _walk(folder: Path, above: Sequence[Path]) -> Iterator[Path]:
    """All that is below a folder and no folder itself, in links to folders too; but nothing hidden."""
    for item in sorted(folder.iterdir()):
        if is_hidden(item.name):
            continue
        if not item.is_dir():
            yield item
        elif item.resolve() in above:
            raise DataError(f"{item}: a link to a folder that it is in; remove the link")
        else:
            yield from _walk(item, (*above, item.resolve()))


def _not_a_file(path: Path) -> str:
    return _dangling(path) if path.is_symlink() else "a device or socket; remove it"


def _dangling(path: Path) -> str:
    target = str(path.readlink())
    cure = (
        "run git annex get where it was cloned" if ".git/annex/" in target else "restore the file, or remove the link"
    )
    return f"a link to {target}, which does not exist; {cure}"


def _rows_of_folder(uri: str, names: Sequence[str], unusable: Sequence[str] = ()) -> list[str]:
    """The names in a folder that are read. Raises DataError if there is none, or one that nobody knows how to read.

    ``unusable`` are the problems with what is in the folder besides.
    """
    kept, unknown = data_files(names)
    if not kept and not unusable:
        content = f"it holds {', '.join(names[:5])}{', …' if len(names) > 5 else ''}" if names else "it is empty"
        raise DataError(f"{uri}: no {KNOWN_SUFFIXES} file in this folder; {content}")
    problems = [*unusable, *(f"{name} is {why_not_data(name)}" for name in unknown)]
    if problems:
        shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
        raise DataError(f"{uri}: not every file of this folder can be read: {shown}; or move it out of the folder")
    return kept


def _local_file(name: str, path: Path, kind: tuple[str, str | None] | None = None) -> DataFile:
    stat = path.stat()
    # Programs can set mtime, and copy it from another file; ctime and the inode they cannot.
    token = f"{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ctime_ns}:{stat.st_ino}"
    return _data_file(name, stat.st_size, token, max(stat.st_mtime, stat.st_ctime), lambda: path.open("rb"), kind)


def _remote_files(uri: str) -> list[DataFile]:
    fs, path, entry, entries = _listing(uri)
    if entry["type"] == "file":
        return [_remote_file(uri, fs, entry)]
    named = {name.removeprefix(path).lstrip("/"): entries[name] for name in entries if not name.endswith("/")}
    kept = _rows_of_folder(uri, sorted(named))
    return [_remote_file(f"{uri.rstrip('/')}/{name}", fs, named[name]) for name in kept]


def _listing(uri: str) -> tuple[Any, str, Mapping[str, Any], dict[str, Any]]:
    """The file system, the path in it, its entry, and all files below it. Raises DataError."""
    import fsspec

    try:
        fs, path = fsspec.url_to_fs(uri)
        with storage_errors(uri):
            entry = fs.info(path)
            return fs, path, entry, {} if entry["type"] == "file" else fs.find(path, detail=True)
    except ImportError as error:
        raise DataError(f"{uri}: {error}; install it to read {scheme_of(uri)}:// addresses") from error
    except FileNotFoundError as error:
        raise DataError(f"{uri}: no such file or folder; check the address and its spelling") from error


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
    file_format = kind or format_of(name)
    if file_format is None:
        raise DataError(f"{name}: {why_not_data(name)}")
    return DataFile(name, file_format[0], file_format[1], size, version_token, changed_at, open_raw)


def _path_hint(path: Path) -> str:
    """A hint at what was probably meant, or at the folder that is missing."""
    if not path.parent.is_dir():
        return "; its folder does not exist either: relative addresses start at the folder of the resource file"
    names = [item.name for item in path.parent.iterdir()]
    matches = difflib.get_close_matches(path.name, names, n=1)
    return f"; did you mean {matches[0]}?" if matches else "; check the address and its spelling"
