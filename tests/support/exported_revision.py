"""An exported result in storage, and the revision that was made for it."""

from __future__ import annotations

import json
from pathlib import Path

from multitask_api.serving_io.revision import REVISION_KEY, Revision, RevisionTask
from multitask_api.stage_io.manifest import Manifest
from multitask_trainer.storage.artifacts import publish
from multitask_trainer.storage.bundle_digest import bundle_digest
from multitask_trainer.storage.files import file_entries

ARTIFACT = "stages/export/0123456789ab"
TASK = RevisionTask(
    name="urgency",
    type="Classification",
    fields=("text",),
    labels=("low", "high"),
    served_by="mixture",
    metric="Accuracy",
    contract="c0ffee",
)


def revision_of(storage: str, bundle: str, **changes: object) -> Revision:
    """A revision whose bundle lies in ``storage``."""
    values: dict[str, object] = {
        "revision": "5e71a1ce",
        "model": "team-a/desk",
        "trained": bundle,
        "generation": 1,
        "storage": storage,
        "artifact": ARTIFACT,
        "bundle_digest": bundle,
        "bundle_bytes": 1000,
        "image": "triton:1",
        "tasks": (TASK,),
    }
    return Revision.model_validate(values | changes)


def mounted(folder: Path, revision: Revision) -> Path:
    """The ConfigMap of ``revision`` as a pod mounts it."""
    folder.mkdir(exist_ok=True)
    (folder / REVISION_KEY).write_text(revision.model_dump_json(by_alias=True))
    return folder


def export_small_bundle(folder: Path, storage: str, weights: bytes = b"weights") -> str:
    """Publish a result with the files of a bundle, of which only the names are real; the digest of the bundle."""
    files = {"bundle/models/base/model.safetensors": weights, "bundle/models/base/tokenizer.json": b"{}"}
    other = {"golden.jsonl": b"{}\n", "routes.yaml": b"", "answers/urgency.parquet": b"", "triton/multitask/x": b""}
    for name, content in (files | other).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    models, tasks = [{"name": "base", "path": "models/base"}], [{"name": "urgency", "model": "base"}]
    hashes = {name.removeprefix("bundle/"): entry.sha256 for name, entry in file_entries(folder).items()}
    digest = bundle_digest(hashes, models, tasks)
    description = {"revision": digest, "models": models, "tasks": tasks}
    (folder / "bundle" / "bundle.json").write_text(json.dumps(description))
    publish_export(folder, storage, digest)
    return digest


def publish_export(folder: Path, storage: str, bundle: str) -> Manifest:
    """Publish a folder as the stage export does."""
    manifest = Manifest(
        model="team-a/desk",
        stage="export",
        kind="export",
        digest=ARTIFACT.rpartition("/")[2],
        version=1,
        read_outputs={},
        outputs={"bundle": bundle},
        files=file_entries(folder),
        result={},
        seconds=1.0,
    )
    return publish(folder, f"{storage}/{ARTIFACT}", manifest)
