"""Storage in an S3 bucket: artifacts, their inventory and checkpoints, against a server that speaks S3."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import fsspec
import pytest
import s3fs
import torch
from moto.server import ThreadedMotoServer

from multitask_api.cluster import EXIT_DONE, EXIT_RETRYABLE, CleanUpResult, GarbageOrder
from multitask_api.stage_io.manifest import Manifest
from multitask_trainer import fetch
from multitask_trainer.errors import ArtifactError, StageError
from multitask_trainer.jobs.clean_up import clean_up, collect
from multitask_trainer.runtime.progress import FileProgressReporter
from multitask_trainer.storage.artifacts import fetch_artifact, find_result, publish, upload_prefix
from multitask_trainer.storage.files import file_entries
from multitask_trainer.storage.result_index import stored_results
from multitask_trainer.storage.uris import remove_tree
from multitask_trainer.training.checkpoint import CheckpointStore, Progress
from support.exported_revision import ARTIFACT, export_small_bundle, mounted, revision_of

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The address of an S3 server; the environment sends every client there."""
    patch = pytest.MonkeyPatch()
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        patch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    yield f"http://{host}:{port}"
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()
    patch.undo()


@pytest.fixture
def bucket(s3: str) -> str:
    name = f"bucket-{uuid4().hex}"
    fsspec.filesystem("s3").mkdir(name)
    return f"s3://{name}"


def artifact(folder: Path, word: str, model: str | None = None) -> tuple[Path, Manifest]:
    (folder / "weights").mkdir(parents=True)
    for number in range(8):
        (folder / "weights" / f"{number}.bin").write_bytes(word.encode() * 1000)
    (folder / "empty").write_bytes(b"")
    manifest = Manifest(
        model=model,
        stage="mixture/all",
        kind="mixture",
        digest="d",
        version=1,
        read_outputs={},
        outputs={},
        files=file_entries(folder),
        result={"word": word},
        seconds=1.0,
    )
    return folder, manifest


def content(folder: Path) -> set[bytes]:
    return {path.read_bytes()[:3] for path in folder.glob("weights/*.bin")}


def test_what_is_published_is_found_listed_and_fetched(bucket, tmp_path):
    address = f"{bucket}/desk/stages/mixture/all/d"
    assert find_result(address) is None
    assert stored_results(f"{bucket}/desk") == []
    folder, manifest = artifact(tmp_path / "a", "one")
    published = publish(folder, address, manifest)
    assert stored_results(f"{bucket}/desk") == [published] == [find_result(address)]
    assert content(fetch_artifact(address, tmp_path / "cache")) == {b"one"}
    remove_tree(address)
    assert find_result(address) is None


def test_servers_fetch_a_bundle_from_a_bucket_and_a_damaged_object_is_refused(bucket, tmp_path, capsys):
    storage = f"{bucket}/desk"
    revision = revision_of(storage, export_small_bundle(tmp_path / "made", storage))
    arguments = [f"--revision={mounted(tmp_path / 'revision', revision)}", f"--target={tmp_path / 'export'}"]
    assert fetch.main(arguments) == EXIT_DONE
    weights = tmp_path / "export/bundle/models/base/model.safetensors"
    assert weights.read_bytes() == b"weights"
    fs = fsspec.filesystem("s3")
    (stored,) = [path for path in fs.find(f"{storage}/{ARTIFACT}") if path.endswith("model.safetensors")]
    fs.pipe_file(stored, b"damaged")
    weights.unlink()
    assert fetch.main(arguments) == EXIT_RETRYABLE
    assert "model.safetensors has other bytes than its manifest says" in capsys.readouterr().err


def test_of_two_pods_at_one_order_one_wins_whole(bucket, tmp_path):
    address = f"{bucket}/desk/stages/mixture/all/d"
    artifacts = [artifact(tmp_path / word, word) for word in ("one", "two")]
    start = threading.Barrier(2)

    def write(folder: Path, manifest: Manifest) -> None:
        start.wait()
        publish(folder, address, manifest)

    threads = [threading.Thread(target=write, args=item) for item in artifacts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    word = str(find_result(address).result["word"])
    assert content(fetch_artifact(address, tmp_path / "cache")) == {word.encode()}


def test_a_damaged_object_is_named_by_its_reader(bucket, tmp_path):
    address = f"{bucket}/d"
    published = publish(*_at(artifact(tmp_path / "a", "one"), address))
    fs, path = fsspec.url_to_fs(address)
    fs.pipe_file(f"{path}/{published.folder}/weights/3.bin", b"two" * 1000)
    with pytest.raises(
        ArtifactError, match=r"weights/3\.bin has other bytes than its manifest says; delete the folder"
    ):
        fetch_artifact(address, tmp_path / "cache")


def _at(source: tuple[Path, Manifest], address: str) -> tuple[Path, str, Manifest]:
    return source[0], address, source[1]


def test_another_pod_goes_on_from_the_mirrored_checkpoint(bucket, tmp_path):
    mirror = f"{bucket}/desk/work/mixture__all-d"
    store = CheckpointStore(tmp_path / "one", mirror)
    for step in (10, 20):
        store.save_best(step, {"w": torch.full((3,), float(step))})
        store.save(Progress(step=step, best_step=step), {"w": torch.zeros(3)}, {"state": {}})
    assert sorted(name.rsplit("/", 1)[-1] for name in fsspec.filesystem("s3").ls(mirror, refresh=True)) == [
        "best-20.pt",
        "checkpoint.pt",
    ]
    elsewhere = CheckpointStore(tmp_path / "two", mirror)
    assert elsewhere.load()[0].step == 20
    assert torch.equal(elsewhere.load_best(20)["w"], torch.full((3,), 20.0))


def test_a_bucket_that_is_not_there_is_named(s3, tmp_path):
    folder, manifest = artifact(tmp_path / "a", "one")
    with pytest.raises(
        StageError, match=r"s3://no-such-bucket/d/.*The specified bucket does not exist; make the bucket"
    ):
        publish(folder, "s3://no-such-bucket/d", manifest)


def keys(bucket: str) -> set[str]:
    fs = fsspec.filesystem("s3")
    fs.invalidate_cache()
    return {name.removeprefix(bucket.removeprefix("s3://")) for name in fs.find(bucket)}


def removed(storage: str, model: str) -> CleanUpResult:
    return clean_up(storage, model, FileProgressReporter("clean-up", None))


def test_a_clean_up_removes_what_one_model_wrote(bucket, tmp_path):
    storage, other = f"{bucket}/desk", f"{bucket}/desk/stages/mixture/all/e"
    publish(*_at(artifact(tmp_path / "b", "two", "team/desk-2"), other))
    fs = fsspec.filesystem("s3")
    for name in ("desk-2/stages/base/d/manifest.json", "desk/work/team__desk-2/base-d/checkpoint.pt", "desk/notes"):
        fs.pipe_file(f"{bucket}/{name}", b"theirs")
    kept = keys(bucket)
    published = publish(*_at(artifact(tmp_path / "a", "one", "team/desk"), f"{storage}/stages/mixture/all/d"))
    for folder in ("stages/mixture/all/d", "stages/mixture/all/e", "stages/base/f"):  # of uploads that were killed
        fs.pipe_file(f"{storage}/{folder}/{upload_prefix('team/desk')}host.1.ab/weights", b"x" * 10)
    CheckpointStore(tmp_path / "c", f"{storage}/work/team__desk/mixture__all-d").save_best(1, {"w": torch.zeros(3)})
    assert published.folder is not None
    assert published.folder.startswith(upload_prefix("team/desk"))

    cleaned = removed(storage, "team/desk")
    assert keys(bucket) == kept
    assert (cleaned.results, cleaned.files, cleaned.left) == (1, 9 + 1 + 3 + 1, 10)
    assert cleaned.bytes > 8000
    assert removed(storage, "team/desk") == CleanUpResult(results=0, files=0, bytes=0, left=10)


def test_of_what_one_model_wrote_that_goes_which_nothing_uses(bucket, tmp_path):
    storage, fs = f"{bucket}/desk", fsspec.filesystem("s3")
    publish(*_at(artifact(tmp_path / "a", "one", "team/desk"), f"{storage}/stages/mixture/all/d"))
    publish(*_at(artifact(tmp_path / "b", "two", "team/desk-2"), f"{storage}/stages/mixture/all/e"))
    unfinished = f"{storage}/work/team__desk/filter-d"
    CheckpointStore(tmp_path / "c", unfinished).save_best(1, {"w": torch.zeros(3)})
    kept = keys(bucket)
    CheckpointStore(tmp_path / "d", f"{storage}/work/team__desk/mixture__all-d").save_best(1, {"w": torch.zeros(3)})
    fs.pipe_file(f"{storage}/stages/mixture/all/d/{upload_prefix('team/desk')}host.1.ab/weights", b"x" * 10)

    used = GarbageOrder(
        model="team/desk", storage=storage, keep=("mixture/all/d", "filter/d"), unfinished=("filter/d",), dry_run=False
    )
    progress = FileProgressReporter("gc", None)
    assert collect(used, progress).count == 0
    assert keys(bucket) == kept
    assert find_result(f"{storage}/stages/mixture/all/d") is not None

    unused = collect(used.model_copy(update={"keep": (), "unfinished": ()}), progress)
    assert [result.name for result in unused.results] == ["mixture/all/d"]
    assert find_result(f"{storage}/stages/mixture/all/d") is None
    assert {name for name in kept if "/mixture/all/e/" in name} == keys(bucket)


def test_of_a_bucket_that_is_gone_nothing_is_left_to_remove(s3):
    assert removed("s3://no-such-bucket/desk", "team/desk") == CleanUpResult(results=0, files=0, bytes=0, left=0)


def test_a_server_that_is_gone_is_a_passing_failure(s3, monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{unused.getsockname()[1]}")
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        s3fs.S3FileSystem.clear_instance_cache()
        with pytest.raises(ArtifactError, match="cannot be reached"):
            find_result("s3://bucket/d")
        with pytest.raises(ArtifactError, match="cannot be reached"):
            removed("s3://bucket/desk", "team/desk")
    s3fs.S3FileSystem.clear_instance_cache()
