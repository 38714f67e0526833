"""The init container of servers: what it copies, what it does not copy again, and what it refuses."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4

import fsspec
import pytest

from multitask_api.cluster import EXIT_DONE, EXIT_RETRYABLE, EXIT_USER_ERROR, MOUNTS_VARIABLE
from multitask_api.serving_io.names import CACHE_LOCK, NODE_CACHE_VARIABLE
from multitask_api.serving_io.revision import Revision
from multitask_trainer.fetch import main
from multitask_trainer.storage.files import file_entries
from support.exported_revision import ARTIFACT, export_small_bundle, mounted, revision_of

COPIED = {
    "bundle/bundle.json",
    "bundle/models/base/model.safetensors",
    "bundle/models/base/tokenizer.json",
    "golden.jsonl",
}


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """Storage on a mounted volume."""
    return tmp_path / "claims" / "models"


@pytest.fixture
def revision(tmp_path: Path, storage: Path) -> Revision:
    """A revision whose bundle is in it."""
    return revision_of(str(storage), export_small_bundle(tmp_path / "made", str(storage)))


def run(tmp_path: Path, revision: Revision, target: str = "export") -> int:
    return main([f"--revision={mounted(tmp_path / 'revision', revision)}", f"--target={tmp_path / target}"])


@pytest.mark.parametrize("kind", ["path", "file", "memory", "pvc"])
def test_the_files_that_servers_read_are_copied_from_any_storage(tmp_path, monkeypatch, kind):
    at = tmp_path / "claims" / "models" / "desk"
    storage = {"memory": f"memory://{uuid4().hex}", "file": f"file://{at}"}.get(kind, str(at))
    digest = export_small_bundle(tmp_path / "made", storage)
    monkeypatch.setenv(MOUNTS_VARIABLE, json.dumps({"models": str(tmp_path / "claims" / "models")}))
    seen = "pvc://models/desk" if kind == "pvc" else storage
    assert run(tmp_path, revision_of(seen, digest)) == EXIT_DONE
    assert set(file_entries(tmp_path / "export")) == COPIED
    assert (tmp_path / "export/bundle/models/base/model.safetensors").read_bytes() == b"weights"


def _truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def _flip(file: Path) -> None:
    file.write_bytes(b"X" + file.read_bytes()[1:])


@pytest.mark.parametrize("damage", [Path.unlink, _truncate, _flip], ids=["gone", "cut off", "changed"])
def test_an_interrupted_copy_is_completed_and_complete_files_are_not_copied_again(tmp_path, revision, capfd, damage):
    assert run(tmp_path, revision) == EXIT_DONE
    damage(tmp_path / "export/bundle/models/base/model.safetensors")
    kept = tmp_path / "export/bundle/bundle.json"
    before = kept.stat().st_mtime_ns
    capfd.readouterr()
    assert run(tmp_path, revision) == EXIT_DONE
    assert "copying 1 of 4 files" in capfd.readouterr().err
    assert kept.stat().st_mtime_ns == before
    assert run(tmp_path, revision) == EXIT_DONE
    assert "copying" not in capfd.readouterr().err


def _other_run(storage: Path) -> None:
    """Another run has put its own result there, whole and with a manifest."""
    shutil.rmtree(storage / ARTIFACT)
    export_small_bundle(storage.parent / "other", str(storage), b"others")


def _changed_with_its_manifest(storage: Path) -> None:
    """Somebody has changed the weights, and has written the manifest to fit."""
    folder = storage / ARTIFACT
    _flip(folder / "bundle/models/base/model.safetensors")
    manifest = json.loads((folder / "manifest.json").read_text())
    entries = file_entries(folder)
    entries.pop("manifest.json")
    manifest["files"] = {name: entry.to_json() for name, entry in entries.items()}
    (folder / "manifest.json").write_text(json.dumps(manifest))


REFUSED: list[tuple[str, Callable[[Path], object], int, str]] = [
    # what happened in storage, exit status, what is said
    ("deleted", shutil.rmtree, EXIT_USER_ERROR, "is not in storage. It was deleted, or storage is mounted elsewhere"),
    ("replaced", _other_run, EXIT_USER_ERROR, "somebody has replaced the result"),
    ("a file lost", lambda at: (at / ARTIFACT / "golden.jsonl").unlink(), EXIT_RETRYABLE, "golden.jsonl is gone"),
    (
        "weights damaged",
        lambda at: _flip(at / ARTIFACT / "bundle/models/base/model.safetensors"),
        EXIT_RETRYABLE,
        "model.safetensors has other bytes than its manifest says",
    ),
    ("changed on purpose", _changed_with_its_manifest, EXIT_RETRYABLE, "these are not the weights that were measured"),
    (
        "manifest unreadable",
        lambda at: (at / ARTIFACT / "manifest.json").write_text("{"),
        EXIT_RETRYABLE,
        "manifest.json cannot be read",
    ),
]


@pytest.mark.parametrize(("damage", "status", "message"), [case[1:] for case in REFUSED], ids=[c[0] for c in REFUSED])
def test_what_is_not_the_measured_bundle_is_refused(tmp_path, storage, revision, capfd, damage, status, message):
    damage(storage)
    assert run(tmp_path, revision) == status
    assert message in capfd.readouterr().err


def test_a_claim_that_is_not_mounted_is_named(tmp_path, revision, capfd):
    assert run(tmp_path, revision.model_copy(update={"storage": "pvc://lost/desk"})) == EXIT_USER_ERROR
    assert "this pod does not mount the claim 'lost'" in capfd.readouterr().err


def test_a_store_that_is_away_is_tried_again(tmp_path, revision, capfd, monkeypatch):
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("connection reset")

    monkeypatch.setattr(fsspec.get_filesystem_class("memory"), "cat_file", unreachable)
    assert run(tmp_path, revision.model_copy(update={"storage": "memory://gone"})) == EXIT_RETRYABLE
    assert "cannot be reached" in capfd.readouterr().err


def test_without_room_nothing_is_copied(tmp_path, revision, capfd, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=5))
    assert run(tmp_path, revision) == EXIT_RETRYABLE
    assert "are free there" in capfd.readouterr().err
    assert not file_entries(tmp_path / "export")


@pytest.mark.parametrize(
    ("content", "message"), [(None, "does not mount the ConfigMap"), ("{}", "images of one release")]
)
def test_a_pod_without_a_revision_says_so(tmp_path, capfd, content, message):
    if content is not None:
        (tmp_path / "revision.json").write_text(content)
    assert main([f"--revision={tmp_path}", f"--target={tmp_path / 'export'}"]) == EXIT_USER_ERROR
    assert message in capfd.readouterr().err


# -- the node's cache --------------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The node's folder."""
    monkeypatch.setenv(NODE_CACHE_VARIABLE, str(tmp_path / "node"))
    return tmp_path / "node"


def test_a_second_pod_on_the_node_copies_nothing(tmp_path, storage, revision, cache, capfd):
    assert run(tmp_path, revision) == EXIT_DONE
    (storage / ARTIFACT / "bundle/models/base/model.safetensors").write_bytes(b"damaged since")
    capfd.readouterr()
    assert run(tmp_path, revision, target="second") == EXIT_DONE
    assert "copying" not in capfd.readouterr().err
    assert (tmp_path / "second/bundle/models/base/model.safetensors").read_bytes() == b"weights"
    assert (tmp_path / "second/bundle").resolve().is_relative_to(cache)


def _old_copy(cache: Path, name: str, hours: float) -> Path:
    """A copy that was last used so many hours ago."""
    (cache / name / "bundle").mkdir(parents=True)
    lock = cache / name / CACHE_LOCK
    lock.touch()
    then = lock.stat().st_mtime - hours * 3600
    os.utime(lock, (then, then))
    return cache / name


def test_copies_that_no_server_uses_make_room_but_for_the_last_ones(tmp_path, revision, cache):
    for hours, name in enumerate(("newest", "second", "old", "used", "oldest"), start=2):
        _old_copy(cache, name, hours)
    with (cache / "used" / CACHE_LOCK).open() as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        assert run(tmp_path, revision) == EXIT_DONE
    left = {path.name for path in cache.iterdir() if path.is_dir()}
    assert left == {revision.bundle_digest, "newest", "second", "used"}


def test_a_copy_whose_server_has_not_started_yet_stays(tmp_path, revision, cache):
    for name in ("one", "two", "three"):
        _old_copy(cache, name, hours=0.5)
    assert run(tmp_path, revision) == EXIT_DONE
    assert {"one", "two", "three"} < {path.name for path in cache.iterdir() if path.is_dir()}
