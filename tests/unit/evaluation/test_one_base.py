"""However many adapters answer, of groups or of single tasks: one base, in the bundle, the engine and Triton."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from multitask_api.bundle import BASE_MODEL, BASELINE
from multitask_api.stage_io.parameters import TaskDefinition
from multitask_serving.engine.engine import Engine
from multitask_serving.engine.model.lora import RowLoraLinear
from multitask_serving.engine.types import Request
from multitask_serving.triton.repository import ModelSettings, write_repository
from multitask_trainer.evaluation.routing import RoutingDecision
from multitask_trainer.export.bundle import ServableWeights, TaskBinding, assemble_bundle, write_bundle
from multitask_trainer.export.routed_bundle import assemble_routed_bundle
from support.evaluation_fixtures import make_adapter, make_base

GROUPS = ("billing", "travel", "health")
TASKS = [
    TaskDefinition(
        name=f"task-{number}", type="Classification", prompt="{text}:", labels=("a", "b", "c"), metric="MacroF1"
    )
    for number in range(7)
]


@pytest.fixture(scope="module")
def bundle_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three groups that answer four tasks, and the baselines of the three tasks that are left over."""
    root = tmp_path_factory.mktemp("one-base")
    base = make_base(root / "base")
    mixtures = [ServableWeights(group, make_adapter(root / group, seed)) for seed, group in enumerate(GROUPS)]
    bindings = [TaskBinding(task, GROUPS[number % 3], GROUPS[number % 3]) for number, task in enumerate(TASKS)]
    assemble_bundle(
        root / "evaluated",
        base=base,
        servables=mixtures,
        tasks=bindings,
        precision="fp32",
        max_length=64,
        revision="evaluated",
    )
    decisions = [
        RoutingDecision(task.name, GROUPS[number % 3], "Qualified", "Qualified")
        if number < 4
        else RoutingDecision(task.name, BASELINE, "NotQualified", "NotQualified", stage=f"baseline/{task.name}/seed-1")
        for number, task in enumerate(TASKS)
    ]
    bundle = assemble_routed_bundle(
        root / "bundle",
        evaluated=root / "evaluated",
        base=base,
        routed=decisions,
        baseline_servable=lambda stage: make_adapter(root / stage, seed=len(stage) + int(stage.split("/")[1][-1])),
        precision="fp32",
        scratch=root / "scratch",
    )
    write_bundle(root / "bundle", bundle.model_copy(update={"revision": "routed"}))
    return root / "bundle"


def storages(tensors) -> dict[int, int]:
    """Bytes by storage, so that shared memory counts once."""
    return {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in tensors if each.numel()}


def test_the_base_is_in_the_bundle_once_with_an_adapter_for_each_group_and_each_task_left_over(bundle_folder):
    engine = Engine.load(bundle_folder)
    [model] = engine.bundle.models
    assert model.name == BASE_MODEL
    assert len(model.adapters) == len(GROUPS) + 3
    assert [path.parent.name for path in bundle_folder.rglob("model.safetensors")] == [BASE_MODEL]


def test_the_memory_of_the_engine_is_that_of_one_base_and_the_adapters(bundle_folder):
    engine = Engine.load(bundle_folder)
    [loaded] = engine._models.values()
    base = make_base(bundle_folder.parent / "again")
    alone = storages(_load(base).parameters())
    assert sum(storages(loaded.model.parameters()).values()) == sum(alone.values())
    layers = [layer for layer in loaded.model.modules() if isinstance(layer, RowLoraLinear)]
    adapters = storages(tensor for layer in layers for tensor in (layer.A, layer.B))
    # Seven numbers of rank 4 a layer, the one without an adapter included; fp32 has four bytes.
    assert sum(adapters.values()) == sum(7 * 4 * (layer.A.shape[2] + layer.B.shape[1]) * 4 for layer in layers)


def _load(base: Path) -> torch.nn.Module:
    from transformers import LlamaForCausalLM

    return LlamaForCausalLM.from_pretrained(base)


def test_all_tasks_are_answered_together_as_each_alone(bundle_folder):
    engine = Engine.load(bundle_folder)
    requests = [Request(task.name, {"text": text}) for text in ("a b", "the card", "x") for task in TASKS]
    together = engine.classify(requests)
    for request, answer in zip(requests, together, strict=True):
        [alone] = engine.classify([request])
        assert answer.label == alone.label
        assert answer.log_probs == pytest.approx(alone.log_probs, abs=1e-4)
    assert len({tuple(answer.log_probs.values()) for answer in together[: len(TASKS)]}) > len(GROUPS)


def test_triton_loads_them_as_one_model_with_one_instance(bundle_folder, tmp_path):
    write_repository(str(bundle_folder), tmp_path / "triton", ModelSettings(device="cpu"))
    [configuration] = (tmp_path / "triton").glob("*/config.pbtxt")
    text = configuration.read_text()
    assert text.count("instance_group") == 1
    assert "count: 1" in text
