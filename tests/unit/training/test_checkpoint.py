"""Checkpoints in a folder, and their copies at an address for a pod whose folder is gone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from uuid import uuid4

import fsspec
import pytest
import torch

from multitask_trainer.training.checkpoint import CheckpointStore, Progress


@pytest.fixture
def mirror() -> str:
    return f"memory://checkpoints-{uuid4().hex}"


def weights(value: float) -> dict[str, torch.Tensor]:
    return {"w": torch.full((3,), value)}


def saved(store: CheckpointStore, step: int, best: int) -> None:
    if best == step:
        store.save_best(step, weights(step))
    store.save(Progress(step=step, best_step=best), weights(step), {"state": {}})


def files(address: str) -> set[str]:
    fs, path = fsspec.url_to_fs(address)
    return {name.rsplit("/", 1)[-1] for name in fs.find(path)}


def test_another_pod_goes_on_from_the_copy(tmp_path, mirror):
    store = CheckpointStore(tmp_path / "one", mirror)
    for step, best in ((10, 10), (20, 20), (30, 20)):
        saved(store, step, best)
    assert files(mirror) == {"checkpoint.pt", "best-20.pt"}
    elsewhere = CheckpointStore(tmp_path / "two", mirror)
    progress, loaded_weights, _ = elsewhere.load()
    assert (progress.step, progress.best_step) == (30, 20)
    assert torch.equal(loaded_weights["w"], weights(30)["w"])
    assert torch.equal(elsewhere.load_best(20)["w"], weights(20)["w"])


def test_nothing_anywhere_is_no_checkpoint(tmp_path, mirror):
    assert CheckpointStore(tmp_path, mirror).load() is None
    assert CheckpointStore(tmp_path).load() is None


@pytest.mark.parametrize("with_mirror", [False, True])
def test_a_checkpoint_that_cannot_be_read_begins_training_anew_and_says_so(tmp_path, mirror, capsys, with_mirror):
    store = CheckpointStore(tmp_path, mirror if with_mirror else None)
    saved(store, 10, 10)
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:100])
    assert store.load() is None
    assert "training begins anew" in capsys.readouterr().err


def test_a_checkpoint_whose_best_weights_are_gone_begins_training_anew(tmp_path, capsys):
    store = CheckpointStore(tmp_path)
    saved(store, 10, 10)
    (tmp_path / "best-10.pt").unlink()
    assert store.load() is None
    assert "best-10.pt, which is gone" in capsys.readouterr().err


def test_best_weights_come_from_the_copy_if_only_the_checkpoint_is_here(tmp_path, mirror):
    store = CheckpointStore(tmp_path / "one", mirror)
    saved(store, 10, 10)
    other = tmp_path / "two"
    other.mkdir()
    shutil.copy(tmp_path / "one/checkpoint.pt", other)
    assert CheckpointStore(other, mirror).load()[0].best_step == 10


def test_no_half_written_file_is_left(tmp_path: Path, mirror: str) -> None:
    class Unwritable:
        def __reduce__(self):
            raise RuntimeError("no")

    store = CheckpointStore(tmp_path, mirror)
    with pytest.raises(RuntimeError, match="no"):
        store.save(Progress(step=1), {"w": Unwritable()}, {})
    assert list(tmp_path.iterdir()) == []
    assert files(mirror) == set()


STORED = """{"step": 40, "tail_begin": 35, "ended_by_limit": true, "best_step": 30, "best_value": 0.75,
"best_loss": 0.5, "stale": 2, "curve": [
{"step": 30, "train_loss": 0.9, "phase": "constant", "tasks": {"a": {"loss": 0.5, "score": 0.75}}}],
"loss_sum": 1.5, "loss_steps": 2, "first_loss": 3.0, "tokens": 900, "seconds": 12.5}"""
"""The progress in a checkpoint, as the first release wrote it."""


def test_a_run_that_the_first_release_began_resumes(tmp_path: Path) -> None:
    content = {"progress": STORED, "weights": weights(1.0), "optimizer": {"state": {}}}
    torch.save(content, tmp_path / "checkpoint.pt")
    torch.save(weights(2.0), tmp_path / "best-30.pt")
    progress, loaded, optimizer = CheckpointStore(tmp_path).load()
    assert (progress.step, progress.decay_start, progress.evals_without_improvement) == (40, 35, 2)
    assert progress.curve[0].tasks["a"].score == 0.75
    assert torch.equal(loaded["w"], weights(1.0)["w"])
    assert optimizer == {"state": {}}


def test_names_in_a_checkpoint_stay_those_of_the_first_release(tmp_path: Path) -> None:
    CheckpointStore(tmp_path).save(Progress.from_checkpoint(STORED), weights(1.0), {})
    written = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["progress"]
    assert json.loads(written) == json.loads(STORED)
