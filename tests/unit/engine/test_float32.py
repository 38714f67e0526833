"""Whoever measures and whoever serves multiply fp32 matrices alike, whatever the process did before."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import multitask_serving
import multitask_trainer
from multitask_serving.engine.engine import Engine
from multitask_serving.engine.model.float32 import use_tf32
from multitask_trainer.training.accelerator import make_accelerator
from support.evaluation_fixtures import INTENT, EvaluationSuite, make_base, make_servable, train_result


@pytest.fixture(autouse=True)
def process_setting() -> Iterator[None]:
    yield
    use_tf32(enabled=False)


@pytest.mark.parametrize("before", [True, False])
def test_an_engine_computes_in_full_fp32_also_after_training_in_its_process(tmp_path: Path, before: bool):
    suite = EvaluationSuite(tmp_path, (INTENT,))
    make_base(suite.scratch("base") / "model")
    suite.artifact("base", train_result("x"), suite.scratch("base"))
    servable = make_servable(suite.scratch("form"), Path(suite.addresses["base"]) / "model", 1)
    suite.engine(servable, [INTENT])
    use_tf32(enabled=before)
    Engine.load(suite.scratch("engine"), threads=1)
    assert torch.get_float32_matmul_precision() == "highest"
    assert not torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize(("device", "precision", "setting"), [("cuda", "fp32", "high"), ("cpu", "fp32", "highest")])
def test_training_uses_tf32_on_a_gpu(monkeypatch: pytest.MonkeyPatch, device: str, precision: str, setting: str):
    monkeypatch.setattr("accelerate.Accelerator", lambda **_: None)  # there may be no GPU
    use_tf32(enabled=False)
    make_accelerator(device=device, threads=1, precision=precision)  # type: ignore[arg-type]
    assert torch.get_float32_matmul_precision() == setting


@pytest.mark.parametrize(("device", "capability", "mixed"), [("cuda", 7, "no"), ("cuda", 8, "bf16"), ("cpu", 8, "no")])
def test_training_computes_in_bf16_where_a_gpu_has_it(
    monkeypatch: pytest.MonkeyPatch, device: str, capability: int, mixed: str
):
    asked: dict[str, object] = {}
    monkeypatch.setattr("accelerate.Accelerator", lambda **settings: asked.update(settings))
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.current_device", lambda: 0)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda _: SimpleNamespace(major=capability))
    make_accelerator(device=device, threads=1, precision="bf16")
    assert asked["mixed_precision"] == mixed


SETTERS = ("set_float32_matmul_precision", "allow_tf32", "fp32_precision")


def test_no_other_module_sets_it():
    found = set()
    for package in (multitask_serving, multitask_trainer):
        for path in Path(package.__file__).parent.rglob("*.py"):
            names = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
            if names & set(SETTERS):
                found.add(path.name)
    assert found == {"float32.py"}
