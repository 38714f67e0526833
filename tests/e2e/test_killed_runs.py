"""One run, killed in the middle of one stage after the other, ends as the run that nobody disturbed.

The tests go on from where the one before them was killed, as a user would; each works alone too.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from support.run_processes import folder_name, processes_of, wait_until
from support.small_suite import ModelFolder, make_small_suite

STARTED, TRAINING, CTRL_C = "started", "training", "training, and then Ctrl-C"

# stage, when to end the run: once the stage says this phase, has started at all, or has left a checkpoint
MOMENTS = [
    ("prepare/topic", STARTED),
    ("base", TRAINING),
    ("baseline/reply/seed-17", CTRL_C),
    ("baseline/urgency/seed-17", TRAINING),
    ("high-resource/classification", TRAINING),
    ("mixture/classification", TRAINING),
    ("export", "assembling"),
    ("verify", "asking"),
]
TRAINED = [stage for stage, moment in MOMENTS if moment in (TRAINING, CTRL_C)]
INTERRUPTED = "interrupted; run the same command again to continue"


def is_at(model_folder: ModelFolder, stage: str, moment: str) -> bool:
    """Whether ``stage`` has come to ``moment``."""
    if moment == STARTED:
        return (model_folder.work / "logs" / f"{stage}.log").exists()
    if moment in (TRAINING, CTRL_C):
        return any(model_folder.work.glob(f"work/{folder_name(stage)}-*/checkpoint/checkpoint.pt"))
    for path in model_folder.work.glob(f"progress/{folder_name(stage)}-*.json"):
        return str(json.loads(path.read_text()).get("phase", "")).startswith(moment)
    return False


def results(model_folder: ModelFolder) -> dict[Path, tuple[int, int]]:
    """Every result, with what changes when it is made again."""
    statuses = {path: path.stat() for path in model_folder.work.glob("stages/**/manifest.json")}
    return {path: (status.st_ino, status.st_mtime_ns) for path, status in statuses.items()}


def stages_of(done: dict[Path, tuple[int, int]], model_folder: ModelFolder) -> set[str]:
    return {path.parents[1].relative_to(model_folder.work / "stages").as_posix() for path in done}


@pytest.fixture(scope="module")
def disturbed(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    """The model of the undisturbed run, once more."""
    return make_small_suite(tmp_path_factory.mktemp("disturbed") / "desk")


def start(model_folder: ModelFolder, tmp_path: Path) -> tuple[subprocess.Popen[str], Path]:
    log = tmp_path / "mtm.log"
    return model_folder.start(log=log), log


@pytest.mark.parametrize(("stage", "moment"), MOMENTS, ids=[stage for stage, _ in MOMENTS])
def test_ended_in_the_middle_of(stage: str, moment: str, disturbed: ModelFolder, tmp_path: Path):
    before = results(disturbed)
    for path in disturbed.work.glob(f"progress/{folder_name(stage)}-*.json"):
        path.unlink()
    process, log = start(disturbed, tmp_path)
    try:
        wait_until(lambda: is_at(disturbed, stage, moment), process, log)
        if moment == CTRL_C:
            os.killpg(process.pid, signal.SIGINT)
            assert process.wait(60) == 130, log.read_text()
            assert log.read_text().splitlines()[-1] == INTERRUPTED
            assert processes_of(disturbed) == []
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    psutil.wait_procs(processes_of(disturbed), timeout=20)
    assert processes_of(disturbed) == []

    after = results(disturbed)
    assert stage not in stages_of(after, disturbed), "the run was ended too late"
    assert before.items() <= after.items()
    assert not [name for name in stages_of(before, disturbed) if f"start  {name}\n" in log.read_text()]


def test_the_run_then_ends_with_the_results_of_an_undisturbed_one(disturbed: ModelFolder, finished: ModelFolder):
    before = results(disturbed)
    done = disturbed.mtm("run")
    assert done.exit_code == 0, done.stderr
    assert "qualified 3/4, confirmed 0" in done.stdout
    assert before.items() <= results(disturbed).items()
    assert disturbed.stages_run() == set(disturbed.manifests()) - stages_of(before, disturbed)
    assert [path.name for path in (disturbed.work / "work").iterdir()] == ["rows"]

    ours, theirs = disturbed.manifests(), finished.manifests()
    for manifests in (ours, theirs):
        del manifests["ledger"]  # it measures speeds
    assert {stage: manifest["digest"] for stage, manifest in ours.items()} == {
        stage: manifest["digest"] for stage, manifest in theirs.items()
    }
    assert {stage: manifest["outputs"] for stage, manifest in ours.items()} == {
        stage: manifest["outputs"] for stage, manifest in theirs.items()
    }
    for stage in TRAINED:
        hashes = [
            {name: entry["sha256"] for name, entry in manifests[stage]["files"].items() if name.endswith("tensors")}
            for manifests in (ours, theirs)
        ]
        assert hashes[0] == hashes[1] != {}


@pytest.mark.parametrize("stage", TRAINED)
def test_a_killed_training_went_on_from_its_checkpoint(stage: str, disturbed: ModelFolder):
    log = (disturbed.work / "logs" / f"{stage}.log").read_text()
    assert "resuming after step " in log
