"""resolve: what stands behind the addresses of a resource right now; runs before the graph is built.

``python -m multitask_trainer.stages.resolve --model FILE.json --data-root DIR --cache FILE --out FILE`` writes a
``multitask_api.manifest.Resolved``. Problems are collected in it; the exit status is 0 whenever it could be written.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from multitask_api.addresses import scheme_of
from multitask_api.digests import digest
from multitask_api.manifest import Resolved, ResolvedData
from multitask_api.resource import MultiTaskModel, MultiTaskModelSpec
from multitask_trainer.data.places import DataFile, Places, files_at
from multitask_trainer.errors import DataError
from multitask_trainer.storage import write_atomically

FINGERPRINT = 16


class HashCache:
    """Content hashes by (name, stamp): a file is hashed again only when its size, time or etag has changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, str] = _read_cache(path)
        self._used: dict[str, str] = {}

    def sha256(self, file: DataFile, root: Path) -> str:
        """SHA-256 of the file's bytes as they are stored."""
        name = file.name if scheme_of(file.name) else str((root / file.name).absolute())
        key = f"{name}|{file.stamp}"
        if key not in self._used:
            self._used[key] = self._known.get(key) or _hash(file)
        return self._used[key]

    def save(self) -> None:
        """Keep what this run used and what it did not look at."""
        write_atomically(self._path, json.dumps(self._known | self._used, indent=0, sort_keys=True))


def resolve(spec: MultiTaskModelSpec, places: Places, cache: HashCache) -> Resolved:
    """Fingerprint every data address and pin the base's revision; what fails is a problem of its address."""
    data = {address: resolve_data(address, places, cache) for address in dict.fromkeys(_addresses(spec))}
    problems = [f"{address}: {found.problem}" for address, found in data.items() if found.problem]
    revision = None
    base = spec.base_model
    try:
        if scheme_of(base.uri) == "hf":
            from multitask_trainer.data.hub import resolve_revision

            revision = resolve_revision(base.uri.removeprefix("hf://").strip("/"), base.revision, "model")
    except DataError as error:
        problems.append(f"spec.baseModel: {error}")
    return Resolved(revision=revision, data=data, problems=tuple(problems))


def resolve_data(address: str, places: Places, cache: HashCache) -> ResolvedData:
    """One address: its content's fingerprint, or the problem with it.

    The fingerprint covers each file's format and content, in the order of the names, but no name and no address:
    the same rows elsewhere are the same rows.
    """
    try:
        if scheme_of(address) == "hf":
            return _resolve_hub(address)
        files = files_at(address, places)
        hashes = [[file.format, file.compression or "", cache.sha256(file, places.root)] for file in files]
    except PermissionError as error:
        return ResolvedData(problem=f"no permission to read {error.filename or 'it'}; change its mode or owner")
    except (DataError, OSError) as error:
        return ResolvedData(problem=str(error).removeprefix(f"{address}: "))
    size = sum(file.size for file in files)
    return ResolvedData(fingerprint=digest(hashes, FINGERPRINT), files=len(files), bytes=size)


def _resolve_hub(address: str) -> ResolvedData:
    from multitask_trainer.data.hub import HubData, resolve_revision

    data = HubData.of(address)
    commit = resolve_revision(data.dataset, data.revision, "dataset")
    return ResolvedData(fingerprint=digest([data.dataset, commit, data.rest], FINGERPRINT), files=1)


def _addresses(spec: MultiTaskModelSpec) -> Iterator[str]:
    for task in spec.tasks:
        yield from (task.data.train.uri, task.data.validation.uri, task.data.test.uri)
    for source in spec.pretraining.corpus if spec.pretraining else ():
        yield source.uri


def _hash(file: DataFile) -> str:
    sha = hashlib.sha256()
    with file.open_raw() as content:
        while block := content.read(1 << 20):
            sha.update(block)
    return sha.hexdigest()


def _read_cache(path: Path) -> dict[str, str]:
    """A cache that cannot be read is an empty one: it only saves time."""
    try:
        known = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(key): str(value) for key, value in known.items()} if isinstance(known, dict) else {}


def main(argv: Sequence[str] | None = None) -> int:
    """Resolve and write the answer."""
    parser = argparse.ArgumentParser(prog="resolve")
    parser.add_argument("--model", type=Path, required=True, help="the MultiTaskModel as JSON")
    parser.add_argument("--data-root", default=".", help="the folder that relative addresses start from")
    parser.add_argument("--cache", type=Path, required=True, help="hashes of files already seen")
    parser.add_argument("--out", type=Path, required=True, help="the Resolved file to write")
    arguments = parser.parse_args(argv)
    model = MultiTaskModel.model_validate_json(arguments.model.read_text("utf-8"))
    cache = HashCache(arguments.cache)
    found = resolve(model.spec, Places.of(arguments.data_root, os.environ), cache)
    cache.save()
    write_atomically(arguments.out, found.model_dump_json(by_alias=True, indent=1, exclude_none=True))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
