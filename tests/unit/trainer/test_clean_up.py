"""What a clean-up removes from a real folder, and what it leaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from multitask_api.cluster import CLEAN_UP_KEY, CLEAN_UP_RESULT_KEY, CleanUpResult, model_folder
from multitask_api.stage_io.manifest import Manifest
from multitask_trainer.jobs.clean_up import clean_up
from multitask_trainer.pod.configmap import ConfigMap, connect
from multitask_trainer.pod.unit import run_unit
from multitask_trainer.runtime.distributed import DistributedContext
from multitask_trainer.runtime.progress import FileProgressReporter
from multitask_trainer.storage import artifacts
from multitask_trainer.storage.artifacts import find_result, publish
from multitask_trainer.storage.files import file_entries
from support.fake_api_server import NAME, ApiServer, running
from support.kills import Killed, Kills
from support.pod_units import orders, prepare

OURS, THEIRS = "team-a/desk", "team-a/desk-2"


def result(storage: Path, stage: str, digest: str = "d1", model: str | None = OURS, work: str = "made") -> Path:
    """An artifact as a stage publishes it: two files of 100 bytes and a manifest."""
    result_folder = storage / work
    (result_folder / "weights").mkdir(parents=True)
    for name in ("weights/0.bin", "scores"):
        (result_folder / name).write_bytes(b"x" * 100)
    manifest = Manifest(
        model=model,
        stage=stage,
        kind=stage.partition("/")[0],
        digest=digest,
        version=1,
        read_outputs={},
        outputs={},
        files=file_entries(result_folder),
        result={},
        seconds=1.0,
    )
    address = storage / "stages" / stage / digest
    publish(result_folder, str(address), manifest)
    return address


def written(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"y" * 10)


def remaining(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() or path.is_symlink()}


def run(storage: Path | str, model: str = OURS) -> CleanUpResult:
    return clean_up(str(storage), model, FileProgressReporter("clean-up", None))


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    return tmp_path / "claim" / "desk"


def test_a_models_results_checkpoints_and_cache_go_and_with_them_the_folder(storage):
    result(storage, "baseline/urgency/seed-17")
    result(storage, "base")
    written(storage, "work/team-a__desk/mixture__all-d2/checkpoint.pt", "work/team-a__desk/mixture__all-d2/a/b")
    written(storage, "resolve-cache.json", ".resolve-cache.json.host.1.ab")
    cleaned = run(storage)
    assert (cleaned.results, cleaned.files, cleaned.left) == (2, 10, 0)
    assert cleaned.bytes > 400
    assert not storage.exists()
    assert storage.parent.is_dir()


# what else lies in the storage of the model
OTHERS = {
    "a result of another model": lambda storage: result(storage, "base", "d2", THEIRS),
    "a result that says no model": lambda storage: result(storage, "base", "d2", None),
    "a result of a run on one machine": lambda storage: result(storage, "base", "d2", "desk"),
    "a result that was moved": lambda storage: result(storage, "base").rename(storage / "stages" / "elsewhere"),
    "a file in a result that its manifest does not name": lambda storage: written(result(storage, "base"), "notes.txt"),
    "a manifest that cannot be read": lambda storage: written(storage, "stages/base/d2/manifest.json"),
    "a folder without a manifest": lambda storage: written(storage, "stages/base/d2/weights"),
    "a file among the stages": lambda storage: written(storage, "stages/README"),
    "another model's work": lambda storage: written(storage, "work/team-a__desk-2/base-d1/checkpoint.pt"),
    "work of nobody we know": lambda storage: written(storage, "work/base-d1/checkpoint.pt"),
    "a file beside": lambda storage: written(storage, "notes.txt"),
    "a folder beside": lambda storage: written(storage, "data/train.jsonl"),
}


@pytest.mark.parametrize("others", OTHERS)
def test_what_is_not_the_models_stays(storage, others):
    OTHERS[others](storage)
    kept = remaining(storage)
    if others == "a file in a result that its manifest does not name":
        kept = {"stages/base/d1/notes.txt"}
    written(storage, "resolve-cache.json")
    result(storage, "filter", "d3")
    cleaned = run(storage)
    among_results = {name for name in kept if name.startswith("stages/")}
    assert remaining(storage) - {"resolve-cache.json"} == kept
    assert cleaned.left == len(among_results)
    assert (storage / "resolve-cache.json").exists() is bool(among_results)


def test_a_link_is_not_followed(storage, tmp_path):
    outside = tmp_path / "outside"
    inside = result(outside, "base")
    written(outside, "work/x")
    before = remaining(outside)
    address = result(storage, "filter")
    (address / "weights" / "0.bin").unlink()
    (address / "weights").rmdir()
    (address / "weights").symlink_to(inside / "weights")  # its manifest names weights/0.bin
    (storage / "stages" / "base").symlink_to(outside / "stages" / "base")
    (storage / "work").symlink_to(outside / "work")
    run(storage)
    assert remaining(outside) == before
    assert remaining(storage) == {"stages/filter/d1/weights", "stages/base", "work"}


def test_results_behind_a_link_in_place_of_the_stages_stay(storage, tmp_path):
    result(tmp_path / "outside", "base")
    storage.mkdir(parents=True)
    (storage / "stages").symlink_to(tmp_path / "outside" / "stages")
    assert run(storage).results == 0
    assert (tmp_path / "outside" / "stages" / "base" / "d1" / "manifest.json").exists()


@pytest.mark.parametrize("step", ["write_atomically", "_stage_beside", "sync_tree", "sync_path"])
def test_of_a_writer_that_was_killed_while_it_published_nothing_is_left(storage, monkeypatch, step):
    def killed(*_: object) -> None:
        raise Killed

    monkeypatch.setattr(artifacts, step, killed)
    with pytest.raises(Killed):
        result(storage, "base", work=f"work/{model_folder(OURS)}/base-d1/artifact")
    run(storage)
    assert not storage.exists()


@pytest.mark.parametrize("after", range(1, 5))
def test_killed_after_any_file_it_goes_on_and_no_half_result_counts(storage, after):
    address = result(storage, "base")
    written(storage, "work/team-a__desk/base-d1/checkpoint.pt")
    with pytest.raises(Killed):
        clean_up(str(storage), OURS, Kills("clean-up", after))
    assert (find_result(str(address)) is not None) is (after == 1)
    run(storage)
    assert not storage.exists()


def test_of_a_stage_that_ran_and_of_one_that_was_killed_nothing_is_left(storage, tmp_path):
    work = storage / "work" / model_folder(OURS)
    ran, killed = (
        prepare(
            tmp_path,
            name,
            model=OURS,
            output=str(storage / "stages" / "prepare" / name / f"d-{name}"),
            work=own,
        )
        for name, own in (("a", str(work / "a")), ("b", str(work / "b")))
    )
    with running(ApiServer()) as server:
        assert carried_out(orders(tmp_path, ran), server) == 0
    written(Path(killed.work), "attempts/host.1.ab/artifact/train.parquet")
    assert run(storage).results == 1
    assert not storage.exists()


def test_there_is_nothing_to_do_where_nothing_is(storage):
    assert run(storage) == CleanUpResult(results=0, files=0, bytes=0, left=0)


def clean_up_unit(folder: Path, order: dict[str, Any]) -> Path:
    unit_folder = folder / "unit"
    unit_folder.mkdir(exist_ok=True)
    (unit_folder / CLEAN_UP_KEY).write_text(json.dumps(order))
    return unit_folder


def carried_out(unit_folder: Path, server: ApiServer) -> int:
    with connect({}, server.url) as client:
        return run_unit(unit_folder, ConfigMap(NAME, client, sleep=lambda _: None), DistributedContext())


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_the_pod_reports_what_it_removed(storage, tmp_path, scheme):
    result(storage, "base")
    with running(ApiServer()) as server:
        unit_folder = clean_up_unit(tmp_path, {"model": OURS, "storage": f"{scheme}{storage}"})
        assert carried_out(unit_folder, server) == 0
        assert CleanUpResult.model_validate_json(server.data[CLEAN_UP_RESULT_KEY]).files == 3
        progress = json.loads(server.data["progress.json"])
    assert (progress["stage"], progress["total"]) == ("clean-up", 3)
    assert not storage.exists()
