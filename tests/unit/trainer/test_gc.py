"""What the program ``gc`` removes from a real folder and from an object store, and what it leaves."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import fsspec
import pytest

from multitask_api.cluster import GC_KEY, GC_RESULT_KEY, GarbageOrder, GarbageResult
from multitask_api.stage_io.manifest import MANIFEST, Manifest
from multitask_trainer.jobs.clean_up import collect
from multitask_trainer.pod.configmap import ConfigMap, connect
from multitask_trainer.pod.unit import run_unit
from multitask_trainer.runtime.distributed import DistributedContext
from multitask_trainer.runtime.progress import FileProgressReporter
from multitask_trainer.storage import artifacts
from multitask_trainer.storage.artifacts import find_result, publish
from multitask_trainer.storage.files import file_entries
from support.fake_api_server import NAME, ApiServer, running
from support.kills import Killed, Kills

OURS, THEIRS = "team-a/desk", "team-a/desk-2"


@pytest.fixture(params=["folder", "memory"])
def address(request, tmp_path):
    """Storage as a pod sees it: a folder, or an object store."""
    if request.param == "folder":
        yield str(tmp_path / "claim" / "desk")
        return
    yield "memory://bucket/desk"
    fsspec.filesystem("memory").rm("/bucket", recursive=True)


def stored(address: str, tmp_path: Path, stage: str, digest: str = "d1", model: str = OURS) -> None:
    """An artifact as a stage publishes it, of 200 bytes and a manifest."""
    made = tmp_path / "made"
    made.mkdir()
    for name in ("weights.bin", "scores"):
        (made / name).write_bytes(b"x" * 100)
    given = {"read_outputs": {}, "outputs": {}, "files": file_entries(made), "result": {}, "seconds": 1.0}
    kind = stage.partition("/")[0]
    publish(
        made,
        f"{address}/stages/{stage}/{digest}",
        Manifest(model=model, stage=stage, kind=kind, digest=digest, version=1, **given),
    )
    shutil.rmtree(made, ignore_errors=True)


def file(address: str, name: str, content: bytes = b"y" * 10) -> None:
    fs, path = fsspec.url_to_fs(f"{address}/{name}")
    fs.makedirs(path.rpartition("/")[0], exist_ok=True)
    fs.pipe_file(path, content)


def files(address: str) -> set[str]:
    fs, path = fsspec.url_to_fs(address)
    return {name.removeprefix(path).lstrip("/") for name in fs.find(path)}


def results_of(address: str) -> set[str]:
    """``STAGE/DIGEST`` of the results that can be read."""
    names = {name.removeprefix("stages/").rpartition("/")[0] for name in files(address) if name.endswith(MANIFEST)}
    assert all(find_result(f"{address}/stages/{name}") for name in names)
    return names


def collected(address: str, *keep: str, dry_run: bool = False, **more: Any) -> GarbageResult:
    order = GarbageOrder(model=OURS, storage=address, keep=keep, dry_run=dry_run, **more)
    return collect(order, FileProgressReporter("gc", None))


@pytest.mark.parametrize("dry_run", [False, True])
def test_what_is_not_used_goes_and_what_is_used_stays_whole(address, tmp_path, dry_run):
    for stage, digest in (("base", "d1"), ("baseline/urgency/seed-17", "d1"), ("baseline/urgency/seed-17", "d2")):
        stored(address, tmp_path, stage, digest)
    stored(address, tmp_path, "export", "d9")
    file(address, "resolve-cache.json")
    before = files(address)
    found = collected(address, "base/d1", "baseline/urgency/seed-17/d2", dry_run=dry_run)

    assert [result.name for result in found.results] == ["baseline/urgency/seed-17/d1", "export/d9"]
    assert (found.count, found.files, found.left, found.dry_run) == (2, 6, 0, dry_run)
    assert found.bytes == sum(result.bytes for result in found.results) > 400
    if dry_run:
        assert files(address) == before
    else:
        assert results_of(address) == {"base/d1", "baseline/urgency/seed-17/d2"}
        assert "resolve-cache.json" in files(address)
    assert collected(address, "base/d1", "baseline/urgency/seed-17/d2").count == (2 if dry_run else 0)


def test_of_a_stage_that_may_turn_out_to_use_any_result_all_stay(address, tmp_path):
    for digest in ("d1", "d2"):
        stored(address, tmp_path, "mixture/all", digest)
        stored(address, tmp_path, "mixture/all-2", digest)
    assert collected(address, keep_stages=("mixture/all",)).count == 2
    assert results_of(address) == {"mixture/all/d1", "mixture/all/d2"}


def test_results_of_others_stay_whether_they_are_used_or_not(address, tmp_path):
    stored(address, tmp_path, "base", "d1", THEIRS)
    stored(address, tmp_path, "base", "d2", THEIRS)
    stored(address, tmp_path, "base", "d3")
    found = collected(address, "base/d1")
    assert (found.count, found.left) == (1, 6)
    assert results_of(address) == {"base/d1", "base/d2"}


# a file of the model's work folder → whether it stays
WORK = {
    "work/team-a__desk/baseline__urgency__seed-17-d2/checkpoint.pt": True,
    "work/team-a__desk/baseline__urgency__seed-17-d1/checkpoint.pt": False,
    "work/team-a__desk/mixture__all-d1/checkpoint.pt": True,
    "work/team-a__desk/mixture__all/checkpoint.pt": False,
    "work/team-a__desk/filter-d1/x": False,
    "work/team-a__desk/rows/filter-d1/0a1b.bin": True,
    "work/team-a__desk/rows/filter-d2/0a1b.bin": False,
    "work/team-a__desk/rows/mixture__all-d3/0a1b.bin": True,
    "work/team-a__desk-2/filter-d1/x": True,
}


def test_checkpoints_of_stages_that_are_still_to_run_stay(address):
    for name in WORK:
        file(address, name)
    used = "baseline/urgency/seed-17/d2"
    found = collected(address, used, "filter/d1", unfinished=(used,), keep_stages=("mixture/all",))
    assert (found.count, found.files, found.bytes) == (0, 4, 40)
    assert files(address) == {name for name, stays in WORK.items() if stays}


def test_rows_of_a_result_that_is_not_used_any_more_go(address, tmp_path):
    for digest in ("d1", "d2"):
        stored(address, tmp_path, "prepare/urgency", digest)
        file(address, f"work/team-a__desk/rows/prepare__urgency-{digest}/0a1b.bin")
    assert collected(address, "prepare/urgency/d2").files == 4
    assert results_of(address) == {"prepare/urgency/d2"}
    assert {name for name in files(address) if name.startswith("work/")} == {
        "work/team-a__desk/rows/prepare__urgency-d2/0a1b.bin"
    }


def test_uploads_that_no_manifest_names_go_and_those_beside_an_unreadable_one_stay(tmp_path):
    address = "memory://bucket/uploads"
    stored(address, tmp_path, "base", "d1")
    kept = files(address)
    file(address, "stages/base/d1/files-team-a__desk_host.1.ab/weights.bin")
    file(address, "stages/filter/d2/files-team-a__desk_host.1.ab/scores")
    file(address, "stages/filter/d2/files-team-a__desk-2_host.1.ab/scores")
    unreadable = {"stages/export/d1/manifest.json", "stages/export/d1/files-team-a__desk_host.1.ab/weights.bin"}
    for name in unreadable:
        file(address, name, b"{")
    try:
        assert collected(address, "base/d1").files == 2
        theirs = {"stages/filter/d2/files-team-a__desk-2_host.1.ab/scores"}
        assert files(address) == kept | theirs | unreadable
    finally:
        fsspec.filesystem("memory").rm("/bucket", recursive=True)


def test_what_a_killed_writer_left_beside_a_used_result_goes(tmp_path, monkeypatch):
    address = tmp_path / "desk"
    stored(str(address), tmp_path, "base")

    def killed(*_: object) -> None:
        raise Killed

    monkeypatch.setattr(artifacts, "sync_tree", killed)
    with pytest.raises(Killed):
        stored(str(address), tmp_path, "base")
    assert len(list((address / "stages" / "base").iterdir())) == 2
    collected(str(address), "base/d1")
    assert [path.name for path in (address / "stages" / "base").iterdir()] == ["d1"]


@pytest.mark.parametrize("after", range(1, 4))
def test_killed_after_any_file_no_half_result_counts_and_the_next_one_goes_on(address, tmp_path, after):
    for digest in ("d1", "d2"):
        stored(address, tmp_path, "base", digest)
    order = GarbageOrder(model=OURS, storage=address, keep=("base/d2",), dry_run=False)
    with pytest.raises(Killed):
        collect(order, Kills("gc", after))
    assert find_result(f"{address}/stages/base/d1") is None
    collect(order, FileProgressReporter("gc", None))
    assert results_of(address) == {"base/d2"}
    assert not [name for name in files(address) if "/d1/" in name]


def test_the_pod_reports_what_is_not_used(tmp_path):
    storage = tmp_path / "desk"
    stored(str(storage), tmp_path, "base")
    unit_folder = tmp_path / "unit"
    unit_folder.mkdir()
    order = {"model": OURS, "storage": str(storage), "keep": [], "dryRun": True}
    (unit_folder / GC_KEY).write_text(json.dumps(order))
    with running(ApiServer()) as server:
        with connect({}, server.url) as client:
            configmap = ConfigMap(NAME, client, sleep=lambda _: None)
            assert run_unit(unit_folder, configmap, DistributedContext()) == 0
        found = GarbageResult.model_validate_json(server.data[GC_RESULT_KEY])
    assert [item.name for item in found.results] == ["base/d1"]
    assert (storage / "stages" / "base" / "d1" / MANIFEST).exists()
