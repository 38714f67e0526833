"""The work folder: where artifacts, logs, orders and progress lie, and what of it is a result.

::

    stages/<stage>/<digest>/     artifacts; the address of an artifact is this path
    work/<stage>-<digest>/       checkpoints and scratch of a stage that has not finished
    logs/<stage>.log             every attempt, one after the other
    orders/ progress/            what a stage is told, and what it says while it runs
    models/<name>.json           the models that use this folder, as last planned
    model.json resolved.json resolve-cache.json
    report.json report.html      of the last run that ended with everything done
    report.partial.json .html    of a later one that did not
    current -> stages/export/<digest>    what `mtm serve` serves
    verified -> stages/export/<digest>   the last export that verify passed
    lock                         held while a run goes on
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote

from pydantic import ValidationError

from multitask_api.resource import MultiTaskModel
from multitask_api.stage_io.manifest import MANIFEST, Manifest, Resolved, StageFailure, StageProgress
from multitask_api.stages import ArtifactKey, artifact_filename
from multitask_api.types import Record
from multitask_operator.local.errors import WorkdirError
from multitask_operator.local.promotion import Published

FAILURE = "failure.json"


class PlannedModel(Record):
    """A model that uses a work folder, with what was found out about its data."""

    model: MultiTaskModel
    resolved: Resolved


class Workdir:
    """Paths and records of one work folder."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self._read: dict[Path, tuple[int, Manifest]] = {}

    @classmethod
    def existing(cls, path: Path) -> Workdir:
        """The work folder at ``path``; WorkdirError if there is none.

        Told by all that `remember` writes: `gc` deletes in it, and many a folder has a ``model.json``.
        """
        own = (path / "model.json", path / "resolved.json")
        if not (path / "models").is_dir() or not all(file.is_file() for file in own):
            what = "is not a work folder of mtm" if path.exists() else "does not exist"
            raise WorkdirError(f"{path} {what}; `mtm run FILE --workdir {quote(str(path))}` makes one")
        return cls(path)

    def artifact(self, key: ArtifactKey) -> Path:
        """The folder of an artifact."""
        return self.path / "stages" / key[0] / key[1]

    def work(self, key: ArtifactKey) -> Path:
        """The scratch folder of a stage."""
        return self.path / "work" / artifact_filename(key)

    def log(self, stage: str) -> Path:
        """The log of all attempts of a stage."""
        return self.path / "logs" / f"{stage}.log"

    def order(self, key: ArtifactKey) -> Path:
        """The order file of a stage."""
        return self.path / "orders" / f"{artifact_filename(key)}.json"

    def progress(self, key: ArtifactKey) -> Path:
        """The progress file of a stage."""
        return self.path / "progress" / f"{artifact_filename(key)}.json"

    @property
    def current(self) -> Path:
        """The link to the artifact that `mtm serve` serves."""
        return self.path / "current"

    def manifests(self) -> dict[ArtifactKey, Manifest]:
        """Every result in the folder. A folder whose files are not all there is not one."""
        found: dict[ArtifactKey, Manifest] = {}
        root = self.path / "stages"
        for folder, below, files in os.walk(root):
            if MANIFEST not in files:
                continue
            below.clear()
            place = Path(folder)
            key = (place.parent.relative_to(root).as_posix(), place.name)
            manifest = self._manifest(place)
            if manifest is not None and (manifest.stage, manifest.digest) == key:
                found[key] = manifest
        return found

    def _manifest(self, folder: Path) -> Manifest | None:
        path = folder / MANIFEST
        changed = path.stat().st_mtime_ns
        known = self._read.get(path)
        if known is None or known[0] != changed:
            try:
                known = (changed, Manifest.model_validate_json(path.read_bytes()))
            except ValidationError:
                return None
            self._read[path] = known
        manifest = known[1]
        whole = all(_size(folder / name) == entry.bytes for name, entry in manifest.files.items())
        return manifest if whole else None

    def progress_of(self, key: ArtifactKey) -> StageProgress | None:
        """What a running stage last said."""
        try:
            return StageProgress.model_validate_json(self.progress(key).read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def failure(self, key: ArtifactKey) -> StageFailure | None:
        """Why the last attempt of a stage ended without a result, if it did."""
        try:
            return StageFailure.model_validate_json((self.work(key) / FAILURE).read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def remember(self, planned: PlannedModel) -> None:
        """Write down the model that uses this folder."""
        name = planned.model.metadata.name
        write(self.path / "models" / f"{name}.json", planned.model_dump_json(by_alias=True, exclude_none=True))
        write(self.path / "model.json", planned.model.model_dump_json(by_alias=True, exclude_none=True, indent=1))
        write(self.path / "resolved.json", planned.resolved.model_dump_json(by_alias=True, exclude_none=True, indent=1))

    def last_planned(self) -> PlannedModel:
        """The model that was last run in this folder; WorkdirError if another version wrote it down."""
        try:
            return PlannedModel(
                model=MultiTaskModel.model_validate_json((self.path / "model.json").read_bytes()),
                resolved=Resolved.model_validate_json((self.path / "resolved.json").read_bytes()),
            )
        except ValidationError as error:
            raise WorkdirError(
                f"{self.path} was written by another version; run the model again to write it anew"
            ) from error

    def planned(self) -> dict[str, PlannedModel]:
        """The models that use this folder, by name."""
        found = {}
        for path in sorted((self.path / "models").glob("*.json")):
            try:
                found[path.stem] = PlannedModel.model_validate_json(path.read_bytes())
            except ValidationError as error:
                raise WorkdirError(
                    f"{path} cannot be read ({error.error_count()} problems); delete it, then run its model again"
                ) from error
        return found

    @property
    def report(self) -> Path:
        """The report of the last run that ended with everything done."""
        return self.path / "report.json"

    @property
    def report_page(self) -> Path:
        """The page made from it."""
        return self.path / "report.html"

    @property
    def partial_report(self) -> tuple[Path, Path]:
        """Report and page of a later run that is not done."""
        return self.path / "report.partial.json", self.path / "report.partial.html"

    @property
    def published(self) -> Published:
        """What ``current`` and ``verified`` lead to; a link to an artifact that is gone leads nowhere."""
        return Published(self._linked(self.current), self._linked(self._verified))

    def publish(self, wanted: Published) -> None:
        """Make ``current`` and ``verified`` lead there, each in one step."""
        before = self.published
        for link, old, new in (
            (self._verified, before.verified, wanted.verified),
            (self.current, before.current, wanted.current),
        ):
            if new is None:
                link.unlink(missing_ok=True)
            elif new != old:
                temporary = self.path / f".{link.name}.{os.getpid()}"
                temporary.unlink(missing_ok=True)
                temporary.symlink_to(self.artifact(new).relative_to(self.path))
                temporary.replace(link)

    @property
    def _verified(self) -> Path:
        return self.path / "verified"

    def _linked(self, link: Path) -> ArtifactKey | None:
        place, root = Path(os.path.realpath(link)), self.path / "stages"
        if not (place / MANIFEST).is_file() or not place.is_relative_to(root):
            return None
        return place.parent.relative_to(root).as_posix(), place.name

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder; WorkdirError, with the holder's process id, if another run has it."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = (self.path / "lock").open("a+", encoding="ascii")
        except OSError as error:
            raise WorkdirError(
                f"{self.path} cannot be a work folder: {error.strerror}; give another --workdir"
            ) from error
        with lock as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.seek(0)
                holder = file.read().strip() or "unknown"
                raise WorkdirError(
                    f"{self.path} is in use by another mtm (process {holder}); wait for it, end it with"
                    f" `kill {holder}`, or give another --workdir"
                ) from error
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield


def write(path: Path, text: str) -> None:
    """Replace a file in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, "utf-8")
    temporary.replace(path)


def write_json(path: Path, data: object) -> None:
    """Replace a JSON file in one step."""
    write(path, json.dumps(data, ensure_ascii=False, indent=1))


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
