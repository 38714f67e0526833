"""Artifacts: whole or not there, of one writer, and what is wrong with one is found by who reads it."""

from __future__ import annotations

import errno
import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import fsspec
import pytest

from multitask_api.stage_io.manifest import Manifest, StageOrder
from multitask_trainer.errors import ArtifactError, StageError
from multitask_trainer.runtime.context import StageContext
from multitask_trainer.runtime.progress import FileProgressReporter
from multitask_trainer.storage.artifacts import fetch_artifact, find_result, publish, read_manifest
from multitask_trainer.storage.disk_space import full_disk_message
from multitask_trainer.storage.files import file_entries
from multitask_trainer.storage.result_index import stored_results
from multitask_trainer.storage.uris import remove_tree, storage_errors


def artifact(folder: Path, word: str, files: int = 3) -> tuple[Path, Manifest]:
    """Files that all say ``word``, and a manifest whose result says it too."""
    (folder / "below").mkdir(parents=True)
    for number in range(files):
        (folder / "below" / f"{number}.txt").write_text(f"{word} {number}")
    manifest = Manifest(
        stage="baseline/a",
        kind="baseline",
        digest="d",
        version=1,
        read_outputs={},
        outputs={"model": word},
        files=file_entries(folder),
        result={"word": word},
        seconds=1.0,
    )
    return folder, manifest


@pytest.fixture(params=["local", "file", "memory"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where an artifact may lie."""
    kind = request.param
    path = f"storage-{uuid4().hex}/stages/baseline/a/d"
    return f"memory://{path}" if kind == "memory" else f"{'file://' if kind == 'file' else ''}{tmp_path}/{path}"


def words(folder: Path) -> set[str]:
    return {path.read_text().split()[0] for path in folder.rglob("*.txt")}


def test_what_is_published_is_found_and_fetched(address, tmp_path):
    folder, manifest = artifact(tmp_path / "a", "one")
    assert find_result(address) is None
    published = publish(folder, address, manifest)
    assert find_result(address) == published == read_manifest(address)
    assert published.model_copy(update={"folder": None}) == manifest
    for _ in range(2):
        assert words(fetch_artifact(address, tmp_path / "cache")) == {"one"}


def test_the_first_of_two_writers_wins_and_the_other_gets_its_manifest(address, tmp_path):
    one = publish(*_at(artifact(tmp_path / "a", "one"), address))
    two = publish(*_at(artifact(tmp_path / "b", "two"), address))
    assert two == one
    assert words(fetch_artifact(address, tmp_path / "cache")) == {"one"}


def test_stages_of_one_process_fetch_what_they_share_once_and_again_when_its_copy_is_gone(tmp_path):
    address = f"memory://storage-{uuid4().hex}/stages/base/d"
    folder, manifest = artifact(tmp_path / "a", "one")
    publish(folder, address, manifest)
    first, second = (_context(tmp_path / name, address) for name in ("first", "second"))
    second = second.sharing_inputs(first)
    assert second.input("base").is_relative_to(second.work_folder)
    assert first.input("base") == second.input("base")
    shutil.rmtree(second.work_folder)
    assert words(first.input("base")) == {"one"}
    assert first.input("base").is_relative_to(first.work_folder)


def _context(work: Path, base: str) -> StageContext:
    order = StageOrder(
        model="desk",
        stage="baseline/a",
        kind="baseline",
        digest="d",
        version=1,
        parameters={},
        read_outputs={},
        inputs={"base": base},
        output=str(work / "out"),
        work=str(work),
    )
    return StageContext(order, FileProgressReporter(order.stage, None))


def _at(source: tuple[Path, Manifest], address: str) -> tuple[Path, str, Manifest]:
    return source[0], address, source[1]


# A file of fsspec's memory is seen before it is whole, unlike one of an object store; test_s3.py has those.
@pytest.mark.parametrize("address", ["local", "file"], indirect=True)
def test_of_concurrent_writers_one_wins_with_all_of_its_files(address, tmp_path):
    artifacts = [artifact(tmp_path / word, word, files=40) for word in ("one", "two", "three", "four")]
    start = threading.Barrier(len(artifacts))
    published_words = []

    def write(folder: Path, manifest: Manifest) -> None:
        start.wait()
        published_words.append(publish(folder, address, manifest).result["word"])

    threads = [threading.Thread(target=write, args=item) for item in artifacts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    standing = find_result(address)
    assert len(published_words) == len(artifacts)
    assert words(fetch_artifact(address, tmp_path / "cache")) == {standing.result["word"]}
    assert standing.result["word"] in published_words


def test_files_that_are_no_result_are_replaced(address, tmp_path):
    fs, path = fsspec.url_to_fs(address)
    fs.makedirs(f"{path}/below", exist_ok=True)
    fs.pipe_file(f"{path}/below/0.txt", b"debris")
    publish(*_at(artifact(tmp_path / "a", "one"), address))
    assert words(fetch_artifact(address, tmp_path / "cache")) == {"one"}


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _flip(path: Path) -> None:
    path.write_bytes(b"X" + path.read_bytes()[1:])


DAMAGES: list[tuple[Callable[[Path], None], bool, str]] = [
    # what happened to a file, whether it still counts as a result, the error of its reader
    (Path.unlink, False, "below/1.txt is gone; delete the folder ADDRESS to have baseline/a redone"),
    (_cut, False, "below/1.txt has 4 bytes, and its manifest says 5; delete the folder ADDRESS to have"),
    (_flip, True, "below/1.txt has other bytes than its manifest says; delete the folder ADDRESS to have"),
]


@pytest.mark.parametrize(("damage", "counts", "message"), DAMAGES)
def test_a_damaged_file_is_named_by_its_reader(tmp_path, damage, counts, message):
    address = str(tmp_path / "stages/baseline/a/d")
    publish(*_at(artifact(tmp_path / "a", "one"), address))
    damage(Path(address) / "below/1.txt")
    assert (find_result(address) is not None) == counts
    with pytest.raises(ArtifactError) as error:
        fetch_artifact(address, tmp_path / "cache")
    assert str(error.value).startswith(f"{address}/{message.replace('ADDRESS', address)}")


def test_a_damaged_copy_is_fetched_again_and_a_damaged_original_is_named(tmp_path):
    address = f"memory://{uuid4().hex}/d"
    published = publish(*_at(artifact(tmp_path / "a", "one"), address))
    copy = fetch_artifact(address, tmp_path / "cache")
    _flip(copy / "below/1.txt")
    assert words(fetch_artifact(address, tmp_path / "cache")) == {"one"}
    fs, path = fsspec.url_to_fs(address)
    fs.pipe_file(f"{path}/{published.folder}/below/1.txt", b"other")
    _flip(copy / "below/1.txt")
    with pytest.raises(ArtifactError, match=r"below/1\.txt has other bytes than its manifest says"):
        fetch_artifact(address, tmp_path / "cache")


def test_an_artifact_that_is_not_there_yet_is_named(address, tmp_path):
    with pytest.raises(ArtifactError, match="the stage that makes it has not finished"):
        fetch_artifact(address, tmp_path / "cache")


def test_the_index_lists_complete_results_the_newest_first(address, tmp_path):
    storage = address.split("/stages/")[0]
    for name in ("a", "b"):
        folder, manifest = artifact(tmp_path / name, "one")
        renamed = manifest.model_copy(update={"stage": f"baseline/{name}"})
        publish(folder, address.replace("/a/d", f"/{name}/d"), renamed)
    assert [manifest.stage for manifest in stored_results(storage)] == ["baseline/b", "baseline/a"]
    remove_tree(address.replace("/a/d", "/b/d"))
    assert [manifest.stage for manifest in stored_results(storage)] == ["baseline/a"]
    fs, path = fsspec.url_to_fs(address)
    fs.pipe_file(f"{path}/manifest.json", b"{")
    assert stored_results(storage) == []


def test_removing_what_is_not_there_is_no_error(address):
    remove_tree(address)


REFUSALS = [
    ("s3://bucket/x", PermissionError("Access Denied"), StageError, "access denied .*check the Secrets of spec"),
    ("s3://bucket/x", OSError(errno.EIO, "slow down"), ArtifactError, "cannot be reached .*slow down"),
    ("/claim/x", OSError(errno.EIO, "bad disk"), OSError, "bad disk"),
]


@pytest.mark.parametrize(("address", "raised", "kind", "message"), REFUSALS)
def test_a_store_that_refuses_is_named_with_what_to_do(address, raised, kind, message):
    with pytest.raises(kind, match=message), storage_errors(address):
        raise raised


def _wrapped(error: Exception) -> Exception:
    outer = RuntimeError("could not be saved")
    outer.__cause__ = error
    return outer


def _real_full_disk() -> OSError:
    try:
        with Path("/dev/full").open("wb", buffering=0) as file:
            file.write(b"x")
    except OSError as error:
        return error
    raise AssertionError


FULL = [
    # the error, its message
    (OSError(errno.ENOSPC, "No space left on device", "/claims/models/stages/x"), "claim 'models' is full; make room"),
    (OSError(errno.EDQUOT, "Disk quota exceeded", "/claims/models"), "claim 'models' is full"),
    (_wrapped(OSError(errno.ENOSPC, "No space left", "/claims/models/x")), "claim 'models' is full"),
    (Exception("I/O error: No space left on device (os error 28)"), "claim 'models' is full"),
    (_real_full_disk(), "claim 'models' is full"),
    (OSError(errno.ENOSPC, "No space left on device", "/elsewhere/x"), "the file system of / is full"),
    (OSError(errno.ENOENT, "No such file", "/claims/models/x"), None),
    (RuntimeError("some tensor is wrong"), None),
]


@pytest.mark.parametrize(("error", "expected"), FULL)
def test_a_full_file_system_is_named_by_its_claim(error, expected):
    message = full_disk_message(
        error, [Path("/claims/models/work")], {"data": Path("/data"), "models": Path("/claims/models")}
    )
    assert (message is None) == (expected is None)
    assert message is None or message.startswith(expected)


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "below/../../outside", ""])
@pytest.mark.parametrize("field", ["stage", "digest", "folder", "files"])
def test_a_manifest_that_leads_out_of_its_folder_is_not_read(tmp_path, field, name):
    folder, manifest = artifact(tmp_path / "made", "a")
    address = str(tmp_path / "stored")
    publish(folder, address, manifest)
    path = tmp_path / "stored" / "manifest.json"
    content = json.loads(path.read_text())
    content[field] = {name: {"sha256": "0", "bytes": 1}} if field == "files" else name
    path.write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match=r"manifest\.json cannot be read; delete the folder to redo it"):
        fetch_artifact(address, tmp_path / "cache")
