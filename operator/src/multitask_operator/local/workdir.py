"""The work folder: artifacts, logs, orders and progress of the models that were run in it.

::

    stages/<stage>/<digest>/     artifacts
    work/<stage>-<digest>/       checkpoints and scratch of a stage that has not finished
    work/rows/                   rows as token ids, for all stages
    logs/<stage>.log             all attempts, one after the other
    orders/ progress/            the order a stage program gets, and the progress it reports
    models/<name>.json           the models that use this folder, as last planned
    versions/<name>.json         the stage versions of these plans
    model.json resolved.json resolve-cache.json
    report.json report.html      of the last run that finished
    report.partial.json .html    of a later run that has not
    current -> stages/export/<digest>    what `mtm serve` serves
    verified -> stages/export/<digest>   the last export that verify passed
    exports.json                 where `mtm export` wrote files that point to a base here
    lock                         held during a run
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

from multitask_api.errors import UserError
from multitask_api.resource import MultiTaskModel
from multitask_api.stage_io.manifest import MANIFEST, Manifest, Resolved, StageFailure, StageProgress
from multitask_api.stages import ArtifactKey, artifact_filename
from multitask_api.stages.versions import UNRECORDED_VERSIONS, Versions, with_newer_kinds
from multitask_api.types import Record
from multitask_operator.local.promotion import Published

FAILURE = "failure.json"


class WorkdirError(UserError):
    """A work folder is missing, unreadable, in use, or not a work folder."""


class PlannedModel(Record):
    """A model that uses a work folder, as it was last planned."""

    model: MultiTaskModel
    resolved: Resolved


class Workdir:
    """One work folder: its paths, and the records that lie there."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self._manifest_cache: dict[Path, tuple[int, Manifest]] = {}

    @classmethod
    def existing(cls, path: Path) -> Workdir:
        """The work folder at ``path``. Raises WorkdirError if there is none.

        Everything that `save_plan` writes has to be there: `gc` deletes in the folder, and other folders may have a
        ``model.json`` too.
        """
        workdir = cls(path)
        if not workdir.is_planned:
            if path.exists():
                raise WorkdirError(
                    f"{path} is not a work folder of mtm; name the one that `mtm run FILE --workdir FOLDER` wrote"
                )
            raise WorkdirError(f"{path} does not exist; `mtm run FILE --workdir {quote(str(path))}` makes it")
        return workdir

    @property
    def is_planned(self) -> bool:
        """Whether a model was run here."""
        records = (self.path / "model.json", self.path / "resolved.json")
        return (self.path / "models").is_dir() and all(file.is_file() for file in records)

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
        """The order file of a stage program."""
        return self.path / "orders" / f"{artifact_filename(key)}.json"

    def progress(self, key: ArtifactKey) -> Path:
        """The progress file of a stage."""
        return self.path / "progress" / f"{artifact_filename(key)}.json"

    @property
    def current(self) -> Path:
        """The link to the artifact that `mtm serve` serves."""
        return self.path / "current"

    def manifests(self) -> dict[ArtifactKey, Manifest]:
        """The manifests of all finished artifacts. An artifact with a missing or truncated file is not one of them."""
        manifests: dict[ArtifactKey, Manifest] = {}
        root = self.path / "stages"
        for name, subfolders, files in os.walk(root):
            if MANIFEST not in files:
                continue
            subfolders.clear()
            folder = Path(name)
            key = (folder.parent.relative_to(root).as_posix(), folder.name)
            manifest = self._manifest(folder)
            if manifest is not None and (manifest.stage, manifest.digest) == key:
                manifests[key] = manifest
        return manifests

    def _manifest(self, folder: Path) -> Manifest | None:
        path = folder / MANIFEST
        changed_at = path.stat().st_mtime_ns
        cached = self._manifest_cache.get(path)
        if cached is None or cached[0] != changed_at:
            try:
                cached = (changed_at, Manifest.model_validate_json(path.read_bytes()))
            except ValidationError:
                return None
            self._manifest_cache[path] = cached
        manifest = cached[1]
        complete = all(_size(folder / name) == entry.bytes for name, entry in manifest.files.items())
        return manifest if complete else None

    def progress_of(self, key: ArtifactKey) -> StageProgress | None:
        """The last progress that a stage reported; None if there is none."""
        try:
            return StageProgress.model_validate_json(self.progress(key).read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def failure(self, key: ArtifactKey) -> StageFailure | None:
        """Why the last attempt of a stage failed; None if it did not, or left no reason."""
        try:
            return StageFailure.model_validate_json((self.work(key) / FAILURE).read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def save_plan(self, planned: PlannedModel, versions: Versions) -> None:
        """Record that this model uses the folder, with the stage versions of its run, and was the last one to do so."""
        self.save_model(planned, versions)
        self.save_last(planned)

    def save_last(self, planned: PlannedModel) -> None:
        """Record that this model was the last one to use the folder; alone, this makes `mtm gc` keep nothing."""
        for record, file in ((planned.model, "model.json"), (planned.resolved, "resolved.json")):
            write_atomically(self.path / file, record.model_dump_json(by_alias=True, exclude_none=True, indent=1))

    def save_model(self, planned: PlannedModel, versions: Versions) -> None:
        """Record that this model uses the folder too: `mtm gc` keeps its results."""
        name = planned.model.metadata.name
        # A file of its own: an older mtm rejects a field that it does not know.
        write_atomically(self._versions(name), json.dumps(dict(versions)))
        text = planned.model_dump_json(by_alias=True, exclude_none=True)
        write_atomically(self.path / "models" / f"{name}.json", text)

    def forget_model(self, name: str) -> None:
        """Undo `save_model`."""
        (self.path / "models" / f"{name}.json").unlink(missing_ok=True)
        self._versions(name).unlink(missing_ok=True)

    def last_planned(self) -> PlannedModel:
        """The model that was last run in this folder. Raises WorkdirError if another version of mtm wrote it."""
        try:
            return PlannedModel(
                model=MultiTaskModel.model_validate_json((self.path / "model.json").read_bytes()),
                resolved=Resolved.model_validate_json((self.path / "resolved.json").read_bytes()),
            )
        except ValidationError as error:
            raise WorkdirError(
                f"{self.path} was written by another version of mtm; run the model again to rewrite it"
            ) from error

    def versions_of(self, name: str) -> Versions | None:
        """The stage versions with which a model was last planned; None if it never was."""
        if not (self.path / "models" / f"{name}.json").is_file():
            return None
        try:
            versions = json.loads(self._versions(name).read_bytes())
            recorded = {kind: int(versions[kind]) for kind in versions.keys() | UNRECORDED_VERSIONS.keys()}
        except (OSError, ValueError, AttributeError, LookupError, TypeError):  # an older mtm wrote none
            recorded = dict(UNRECORDED_VERSIONS)
        return with_newer_kinds(recorded)

    def _versions(self, name: str) -> Path:
        return self.path / "versions" / f"{name}.json"

    def model_files(self) -> list[Path]:
        """The records of the models that use this folder, each with the name of its model."""
        return sorted((self.path / "models").glob("*.json"))

    def planned_models(self) -> dict[str, PlannedModel]:
        """The models that use this folder, by name. Raises WorkdirError if one cannot be read."""
        models = {}
        for path in self.model_files():
            try:
                models[path.stem] = PlannedModel.model_validate_json(path.read_bytes())
            except ValidationError as error:
                raise WorkdirError(
                    f"{path} cannot be read ({error.error_count()} problems); delete it, then run its model again"
                ) from error
        return models

    @property
    def report(self) -> Path:
        """The report of the last run that finished."""
        return self.path / "report.json"

    @property
    def report_page(self) -> Path:
        """The HTML page made from it."""
        return self.path / "report.html"

    @property
    def partial_report(self) -> tuple[Path, Path]:
        """Report and page of a later run that has not finished."""
        return self.path / "report.partial.json", self.path / "report.partial.html"

    @property
    def published(self) -> Published:
        """The exports that ``current`` and ``verified`` link to; None where the artifact is missing."""
        return Published(self._linked(self.current), self._linked(self._verified))

    def publish(self, wanted: Published) -> None:
        """Make ``current`` and ``verified`` link to these exports. Each link changes atomically."""
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
        artifact, root = Path(os.path.realpath(link)), self.path / "stages"
        if not (artifact / MANIFEST).is_file() or not artifact.is_relative_to(root):
            return None
        return artifact.parent.relative_to(root).as_posix(), artifact.name

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder's lock. Raises WorkdirError, with the holder's process id, if another process has it."""
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


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that readers see the old text or the new one, never a part. Makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, "utf-8")
    temporary.replace(path)


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
