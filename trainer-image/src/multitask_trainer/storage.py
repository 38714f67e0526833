"""Artifact folders at any fsspec address: published whole or not at all, and checked by whoever reads them."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from fcntl import LOCK_EX, flock
from pathlib import Path

import fsspec
from pydantic import ValidationError

from multitask_api.cluster import model_folder
from multitask_api.errors import MultitaskError
from multitask_api.stage_io.manifest import MANIFEST, FileEntry, Manifest
from multitask_api.stages.digests import digest
from multitask_trainer.errors import ArtifactError, StageError

_VERSIONS = {"transformers_version", "peft_version"}
_TRIES = 5


def local_path(address: str) -> Path | None:
    """The path of a local address; None for a remote one."""
    if address.startswith("file://"):
        return Path(address.removeprefix("file://"))
    return None if "://" in address else Path(address)


def read_manifest(address: str) -> Manifest | None:
    """The manifest of the artifact at ``address``; None if there is none (the folder is then not a result).

    Raises `ArtifactError` for one that cannot be read.
    """
    fs, path = fsspec.url_to_fs(address)
    try:
        with reaching(address):
            text = fs.cat_file(f"{path}/{MANIFEST}")
    except FileNotFoundError:
        return None
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        raise ArtifactError(f"{address}/{MANIFEST} cannot be read; delete the folder to redo it") from error


def find(address: str) -> Manifest | None:
    """The manifest of a result: as `read_manifest`, and None too if a file that it names is gone or of another size."""
    manifest = read_manifest(address)
    if manifest is None:
        return None
    found = sizes(_content(address, manifest))
    whole = all(found.get(name) == entry.bytes for name, entry in manifest.files.items())
    return manifest if whole else None


def fetch(address: str, cache: Path) -> Path:
    """A local folder with the artifact's files: the folder itself if it is local, else a copy in ``cache``.

    Raises `ArtifactError` if there is no result, or if a file's bytes are not those that the manifest tells.
    """
    manifest = read_manifest(address)
    if manifest is None:
        raise ArtifactError(f"{address}: no {MANIFEST}; the stage that makes it has not finished")
    content = _content(address, manifest)
    folder = local_path(content)
    if folder is None:
        folder = cache / manifest.stage / manifest.digest
        with _locked(folder):  # the processes of one launch share the copy
            _download(content, folder, manifest.files)
    for name, entry in manifest.files.items():
        found = file_entry(folder / name) if (folder / name).is_file() else None
        if found != entry:
            fault = "is gone" if found is None else _difference(found, entry)
            raise ArtifactError(
                f"{address}/{name} {fault}; delete the folder {address} to have {manifest.stage} redone"
            )
    return folder


def publish(folder: Path, address: str, manifest: Manifest) -> Manifest:
    """Move the files of ``folder`` and their manifest to ``address``, all at once; the manifest that stands there then.

    Of several writers one wins, whole: it may be the manifest of another one that is returned. What lies there without
    being a result is replaced. Locally everything is on the disk before it appears under its name.
    """
    local = local_path(address)
    if local is None:
        return _publish_remote(folder, address, manifest)
    with reaching(address):
        return _publish_local(folder, address, local, manifest)


def _publish_local(folder: Path, address: str, local: Path, manifest: Manifest) -> Manifest:
    local.parent.mkdir(parents=True, exist_ok=True)
    # Before it moves: of a writer that is killed, a clean-up knows the folder by it.
    write_atomically(folder / MANIFEST, manifest.model_dump_json(by_alias=True, indent=1, exclude_none=True))
    staged = _movedbeside(local, folder)
    _sync(staged)
    for _ in range(_TRIES):
        try:
            staged.rename(local)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            standing = find(address)
            if standing is not None:
                shutil.rmtree(staged)
                return standing
            _remove(local)
        else:
            _sync_one(local.parent)
            return manifest
    raise ArtifactError(f"{address}: other writers come in between; end those that are not needed, then try again")


def _publish_remote(folder: Path, address: str, manifest: Manifest) -> Manifest:
    """Object stores cannot rename: each writer's files get a folder of their own, and the one manifest names it."""
    manifest = manifest.model_copy(update={"folder": f"{content_prefix(manifest.model)}{unique()}"})
    content = _content(address, manifest)
    for name in manifest.files:
        upload(folder / name, f"{content}/{name}")
    standing = find(address)
    if standing is not None:
        remove(content)
        return standing
    text = manifest.model_dump_json(by_alias=True, indent=1, exclude_none=True)
    write_atomically(folder / MANIFEST, text)
    upload(folder / MANIFEST, f"{address}/{MANIFEST}")
    return read_manifest(address) or manifest


def content_prefix(model: str | None) -> str:
    """How the folder begins that a writer's files get: of one that was killed it is all that tells whose it was."""
    return f"files-{model_folder(model or '')}_"


def remove(address: str) -> None:
    """Delete what lies at an address, as far as that goes: what is left is only in the way."""
    fs, path = fsspec.url_to_fs(address)
    with suppress(FileNotFoundError, MultitaskError), reaching(address):
        fs.rm(path, recursive=True)


@contextmanager
def reaching(address: str) -> Iterator[None]:
    """Says of an address that cannot be used what to do about it, in the words of whichever store it is."""
    try:
        yield
    except (FileNotFoundError, MultitaskError):
        raise
    except PermissionError as error:
        raise StageError(
            f"{address}: access denied ({error}); check the Secrets of spec.credentials or the rights of the service "
            "account, and for a claim that its files belong to the pod's group (fsGroup)"
        ) from error
    except Exception as error:
        if local_path(address) is not None:
            raise
        raise ArtifactError(
            f"{address} cannot be reached ({type(error).__name__}: {error}); is the store up?"
        ) from error


def upload(file: Path, address: str) -> None:
    """Copy a file to a remote address. Raises `StageError` if the bucket is not there."""
    fs, path = fsspec.url_to_fs(address)
    with reaching(address):
        try:
            fs.put_file(str(file), path)
        except FileNotFoundError as error:  # of the bucket: folders need not be there
            raise StageError(f"{address}: {error}; make the bucket, or name another in spec.storage.uri") from error


def _content(address: str, manifest: Manifest) -> str:
    """Where the files lie."""
    return f"{address}/{manifest.folder}" if manifest.folder else address


def sizes(address: str) -> dict[str, int]:
    """Relative name → bytes of every file below an address."""
    fs, path = fsspec.url_to_fs(address)
    fs.invalidate_cache()  # listings are remembered, and other pods write
    with reaching(address):
        found = fs.find(path, detail=True)
    return {name.removeprefix(path).lstrip("/"): entry["size"] for name, entry in found.items()}


def _download(address: str, folder: Path, files: Mapping[str, FileEntry]) -> None:
    """Copy what is not there yet; what an earlier attempt left is kept if it is whole."""
    fs, path = fsspec.url_to_fs(address)
    for name, entry in files.items():
        file = folder / name
        if file.is_file() and file_entry(file) == entry:
            continue
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            with reaching(address):
                fs.get_file(f"{path}/{name}", str(file))
        except FileNotFoundError:
            file.unlink(missing_ok=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f".{folder.name}.lock").open("w") as lock:
        flock(lock, LOCK_EX)
        yield


def _difference(found: FileEntry, told: FileEntry) -> str:
    if found.bytes != told.bytes:
        return f"has {found.bytes} bytes, and its manifest says {told.bytes}"
    return "has other bytes than its manifest says"


def _movedbeside(target: Path, folder: Path) -> Path:
    """``folder`` moved to where it can be renamed to ``target``: copied, if it lies in another file system or mount."""
    staged = beside(target)
    try:
        folder.rename(staged)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        shutil.copytree(folder, staged)
        shutil.rmtree(folder)
    return staged


def _remove(folder: Path) -> None:
    """Take a folder away in one step, then delete it: no reader sees a part of it."""
    aside = beside(folder)
    try:
        folder.rename(aside)
    except FileNotFoundError:
        return  # another writer was quicker
    shutil.rmtree(aside)


def beside(path: Path) -> Path:
    """A new name in the folder of ``path``, to be renamed to it: only then do readers see it."""
    return path.with_name(f".{path.name}.{unique()}")


def unique() -> str:
    """A name that no other process on any machine uses: ``<host>.<process id>.<random>``."""
    return f"{platform.node()}.{os.getpid()}.{uuid.uuid4().hex[:8]}"


def _sync(folder: Path) -> None:
    """Put a folder and all below it on the disk."""
    for path in (*folder.rglob("*"), folder):
        if path.is_file() or path.is_dir():
            _sync_one(path)


def _sync_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, text: str) -> None:
    """Replace ``path`` in one step, so that a reader sees the old text or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = beside(path)
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def file_entry(path: Path) -> FileEntry:
    """SHA-256 and size of a file."""
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            sha.update(block)
    return FileEntry(sha256=sha.hexdigest(), bytes=path.stat().st_size)


def describe(folder: Path) -> dict[str, FileEntry]:
    """All files below ``folder`` by relative path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): file_entry(path) for path in files}


def drop_versions(folder: Path) -> None:
    """Remove the library versions that transformers and PEFT write into their settings.

    The manifest names the versions; in the files they would give the same weights another digest.
    """
    for path in folder.glob("*.json"):
        settings = json.loads(path.read_text("utf-8"))
        if isinstance(settings, dict) and settings.keys() & _VERSIONS:
            kept = {name: value for name, value in settings.items() if name not in _VERSIONS}
            write_atomically(path, json.dumps(kept, indent=1, sort_keys=True, ensure_ascii=False))


def content_digest(folder: Path, names: Iterable[str] | None = None) -> str:
    """A digest of the named files or sub-folders of ``folder`` (all without ``names``): same bytes, same digest."""
    entries = describe(folder)
    wanted = None if names is None else tuple(names)
    kept = {
        name: entry.sha256
        for name, entry in entries.items()
        if wanted is None or any(name == want or name.startswith(f"{want}/") for want in wanted)
    }
    return digest(kept)
