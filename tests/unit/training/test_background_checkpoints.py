"""A checkpoint holds what was there when it was saved, also if it is written while training goes on."""

from __future__ import annotations

import threading

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from multitask_trainer.training.checkpoint import CheckpointStore, Progress
from multitask_trainer.training.parallelism import writer
from multitask_trainer.training.parallelism.checkpoints import Checkpoints


class Trained:
    """One weight, and the state of an optimizer that has made a step."""

    is_sharded = False

    def __init__(self) -> None:
        self.parameters = {"w": nn.Parameter(torch.ones(3))}
        self.optimizer = torch.optim.AdamW(self.parameters.values(), lr=0.1)
        self.step()

    def step(self) -> None:
        self.parameters["w"].grad = torch.ones(3)
        self.optimizer.step()

    def values(self) -> list[torch.Tensor]:
        weight = self.parameters["w"]
        return [weight.detach().clone(), *(each.clone() for each in self.optimizer.state[weight].values())]


class SlowStore(CheckpointStore):
    """Writes nothing before it may."""

    may_write = threading.Event()

    def _write(self, name, content):
        assert self.may_write.wait(60)
        super()._write(name, content)


def checkpoints(folder, trained: Trained, store: type[CheckpointStore] = CheckpointStore) -> Checkpoints:
    return Checkpoints(trained, store(folder), Accelerator(cpu=True))


def test_steps_after_it_are_not_in_it(tmp_path):
    trained, SlowStore.may_write = Trained(), threading.Event()
    saving = checkpoints(tmp_path, trained, SlowStore)
    expected = trained.values()
    saving.keep_best(4)
    saving.save(Progress(step=4, best_step=4))
    assert list(tmp_path.iterdir()) == []
    trained.step()
    SlowStore.may_write.set()
    saving.wait()
    restored = Trained()
    assert checkpoints(tmp_path, restored).restore() == Progress(step=4, best_step=4)
    torch.testing.assert_close(restored.values(), expected)
    trained.step()
    saving.load_best(4)
    torch.testing.assert_close(trained.parameters["w"].detach(), expected[0])


def test_without_room_for_a_copy_it_is_written_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "free_memory", lambda: 4 * 12)
    trained = Trained()
    expected = trained.values()
    checkpoints(tmp_path, trained).save(Progress(step=4))
    trained.step()
    restored = Trained()
    checkpoints(tmp_path, restored).restore()
    torch.testing.assert_close(restored.values(), expected)


def test_an_error_of_the_thread_is_raised_where_training_waits_for_it(tmp_path):
    (tmp_path / "file").touch()
    saving = checkpoints(tmp_path / "file", Trained())
    saving.save(Progress(step=4))
    with pytest.raises(FileExistsError):
        saving.wait()


@pytest.mark.parametrize(("limit", "free"), [("max", 1000), ("900", 500), ("5000", 1000)])
def test_free_memory_is_within_the_limit_of_the_control_group(tmp_path, monkeypatch, limit, free):
    for name, text in {"max": limit, "current": "600", "stat": "anon 300\ninactive_file 200\n"}.items():
        (tmp_path / f"memory.{name}").write_text(text)
    monkeypatch.setattr(writer, "_CGROUP", tmp_path)
    monkeypatch.setattr(writer.psutil, "virtual_memory", lambda: type("Memory", (), {"available": 1000}))
    assert writer.free_memory() == free
