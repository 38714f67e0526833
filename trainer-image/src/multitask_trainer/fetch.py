"""Copies a revision's bundle from storage to the pod that serves it: ``python -m multitask_trainer.fetch``.

The operator writes this command into the init container of servers, which has the serving image: neither torch nor any
other library of training is imported. It reads ``revision.json`` below ``/multitask/revision``, copies ``bundle/`` and
``golden.jsonl`` of the exported result to ``/multitask/export``, and checks every file, and the digest of the bundle.
What an earlier attempt has copied stays. The exit status is 0 when the copy is complete, 2 if trying again cannot help,
75 if it can, and 1 for a fault of the program.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from multitask_api.cluster import EXIT_DONE, EXIT_RETRYABLE, EXIT_USER_ERROR
from multitask_api.errors import RetryableError, UserError
from multitask_api.serving_io.names import EXPORT_PATH, NODE_CACHE_VARIABLE, REVISION_PATH
from multitask_api.serving_io.revision import REVISION_KEY, Revision
from multitask_api.stage_io.manifest import FileEntry, Manifest
from multitask_api.uris import scheme_of
from multitask_trainer.data.locations import DataLocations
from multitask_trainer.errors import ArtifactError, StageError
from multitask_trainer.storage.artifacts import check_files, content_uri, copy_files, locked, read_manifest
from multitask_trainer.storage.bundle_digest import bundle_digest
from multitask_trainer.storage.disk_space import full_disk_message
from multitask_trainer.storage.files import matches_entry
from multitask_trainer.storage.node_cache import make_room

BUNDLE, GOLDEN = "bundle", "golden.jsonl"


def main(argv: Sequence[str] | None = None) -> int:
    """Fetch the bundle; the exit status."""
    parser = argparse.ArgumentParser(prog="fetch", description=__doc__)
    parser.add_argument("--revision", type=Path, default=Path(REVISION_PATH), help="the mounted ConfigMap")
    parser.add_argument("--target", type=Path, default=Path(EXPORT_PATH), help="where the servers read it")
    arguments = parser.parse_args(argv)
    try:
        fetch(read_revision(arguments.revision), arguments.target, os.environ)
    except UserError as error:
        return _failed(str(error), EXIT_USER_ERROR)
    except Exception as error:  # noqa: BLE001 - nobody above says what is wrong
        mounts = DataLocations.of(".", os.environ).mounts
        full = full_disk_message(error, [arguments.target], mounts)
        if full is not None:
            return _failed(full, EXIT_RETRYABLE)
        if isinstance(error, RetryableError | ConnectionError | TimeoutError):
            return _failed(str(error), EXIT_RETRYABLE)
        traceback.print_exception(error)
        return 1
    return EXIT_DONE


def read_revision(folder: Path) -> Revision:
    """The revision in the mounted ConfigMap. Raises `StageError`."""
    path = folder / REVISION_KEY
    try:
        return Revision.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise StageError(f"{path} is missing: the pod does not mount the ConfigMap of its revision") from error
    except ValidationError as error:
        raise StageError(
            f"{path} cannot be read by this image ({error.error_count()} problems, the first: "
            f"{error.errors()[0]['msg']}); use operator and serving images of one release"
        ) from error


def fetch(revision: Revision, target: Path, environment: Mapping[str, str]) -> None:
    """Copy the bundle of ``revision`` to ``target``, or link to the node's copy, where ``environment`` names a cache.

    Raises `StageError` if there is no such result, `ArtifactError` if a file cannot be read or is not the right one.
    """
    uri = f"{_storage(revision.storage, environment)}/{revision.artifact}"
    cache = environment.get(NODE_CACHE_VARIABLE)
    if not cache:
        _copy(uri, revision, target)
        return
    copy = Path(cache) / revision.bundle_digest
    with locked(copy):
        make_room(Path(cache), keep=copy)
        _copy(uri, revision, copy)
    target.mkdir(parents=True, exist_ok=True)
    for name in (BUNDLE, GOLDEN):
        (target / name).unlink(missing_ok=True)
        (target / name).symlink_to(copy / name)


def _storage(uri: str, environment: Mapping[str, str]) -> str:
    """Storage as this pod sees it: the folder where a claim is mounted, or the URI itself."""
    if scheme_of(uri) != "pvc":
        return uri.rstrip("/")
    mounts = DataLocations.of(".", environment).mounts
    claim, _, path = uri.removeprefix("pvc://").partition("/")
    if claim not in mounts:
        raise StageError(f"{uri}: this pod does not mount the claim {claim!r}; MULTITASK_MOUNTS names the mounted ones")
    return f"{mounts[claim]}/{path}".rstrip("/")


def _copy(uri: str, revision: Revision, target: Path) -> None:
    manifest = _manifest(uri, revision)
    files = {name: entry for name, entry in manifest.files.items() if name == GOLDEN or name.startswith(f"{BUNDLE}/")}
    missing = {name: entry for name, entry in files.items() if not matches_entry(target / name, entry)}
    size = sum(entry.bytes for entry in missing.values())
    target.mkdir(parents=True, exist_ok=True)
    if missing:
        _check_space(target, size)
        _say(f"copying {len(missing)} of {len(files)} files, {_gigabytes(size)}, from {uri}")
        began = time.monotonic()
        copy_files(content_uri(uri, manifest), target, missing)
        check_files(uri, target, manifest, missing)
        _say(f"copied in {time.monotonic() - began:.0f} s")
    _check_bundle(uri, revision, target / BUNDLE, files)
    _say(f"bundle {revision.bundle_digest} is complete in {target}")


def _manifest(uri: str, revision: Revision) -> Manifest:
    """The manifest of the exported result. Raises `StageError` if it is not that of the revision's bundle."""
    manifest = read_manifest(uri)
    if manifest is None:
        raise StageError(
            f"{uri} has no manifest: the exported result of revision {revision.revision} is not in storage. It was "
            "deleted, or storage is mounted elsewhere; annotate the model with multitask.dev/refresh to train it again"
        )
    stored = manifest.outputs.get("bundle")
    if stored != revision.bundle_digest:
        raise StageError(
            f"{uri} has the bundle {stored}, and revision {revision.revision} was made for {revision.bundle_digest}: "
            "somebody has replaced the result; delete the folder to have it made again"
        )
    return manifest


def _check_bundle(uri: str, revision: Revision, folder: Path, files: Mapping[str, FileEntry]) -> None:
    """Raise `ArtifactError` if the files, which are as the manifest lists them, do not make up the bundle."""
    try:
        bundle = json.loads((folder / "bundle.json").read_text("utf-8"))
        models, tasks = bundle["models"], bundle["tasks"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{uri}/{BUNDLE}/bundle.json is no description of a bundle ({error!r})") from error
    hashes = {name.removeprefix(f"{BUNDLE}/"): entry.sha256 for name, entry in files.items() if name != GOLDEN}
    actual = bundle_digest(hashes, models, tasks)
    if actual != revision.bundle_digest:
        raise ArtifactError(
            f"the digest of {uri}/{BUNDLE} is {actual}, and that of revision {revision.revision} is "
            f"{revision.bundle_digest}: these are not the weights that were measured. Delete the folder {uri} to have "
            "it made again"
        )


def _check_space(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < size:
        raise RetryableError(
            f"the bundle needs {_gigabytes(size)} more in {folder}, and {_gigabytes(free)} are free there: use nodes "
            "with more ephemeral storage, or give the pods a larger volume there"
        )


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB"


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def _failed(message: str, status: int) -> int:
    _say(message)
    return status


if __name__ == "__main__":
    raise SystemExit(main())
