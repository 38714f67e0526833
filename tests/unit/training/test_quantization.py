"""Fewer bits in training: the optimizer's moments in 8, a frozen base in 4; and what refuses them."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from multitask_api.bundle import ForwardPath
from multitask_api.resource import MultiTaskModelSpec
from multitask_api.resource.tuning import Tuning
from multitask_serving.engine.engine import Engine
from multitask_trainer.base_model.quantization import is_quantized, load_quantized, number_of_weights
from multitask_trainer.data.fingerprints import HashCache
from multitask_trainer.data.locations import DataLocations
from multitask_trainer.data.rows import read_rows
from multitask_trainer.errors import Interrupted
from multitask_trainer.evaluation.scoring import answer_rows, score_answers
from multitask_trainer.export.bundle import ServableWeights, TaskBinding, assemble_bundle
from multitask_trainer.pod.unit import interrupt
from multitask_trainer.runtime import packages
from multitask_trainer.runtime.progress import FileProgressReporter
from multitask_trainer.stages.resolve import resolve
from multitask_trainer.training.checkpoint import CheckpointStore, Progress
from multitask_trainer.training.optimizer import OptimizerStep, TrainingSettings
from multitask_trainer.training.parallelism.checkpoints import Checkpoints
from multitask_trainer.training.parallelism.choice import sharding_problem
from multitask_trainer.tuning import tuning_method
from support.simulated_stages import document
from support.training_fixtures import (
    KIND,
    TrainingSuite,
    base_parameters,
    optimisation,
    small_decoder,
    train_parameters,
)

NF4 = {name: Tuning(method=name, rank=6, quantization="NF4") for name in ("LoRA", "CGCLoRA")}
TASKS = ("kind", "repeat")


pytestmark = pytest.mark.usefixtures("uncompiled")


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> TrainingSuite:
    suite = TrainingSuite(tmp_path_factory.mktemp("suite"), train=200, others=24)
    assert suite.run_here(suite.order("base", base_parameters())) is None
    return suite


def wide_decoder(seed: int = 0) -> torch.nn.Module:
    return small_decoder(seed, hidden_size=64, intermediate_size=128, vocab_size=128)


# -- 8-bit moments -----------------------------------------------------------------------------------------------------


def step_of(method: str, optimizer: str | None, seed: int = 0) -> OptimizerStep:
    tuned = tuning_method(Tuning(method=method, rank=64))
    torch.manual_seed(seed)
    model = tuned.prepare(wide_decoder())
    settings = TrainingSettings(9, optimisation(optimizer=optimizer))
    return OptimizerStep(model, settings, method=tuned, accelerator=Accelerator(cpu=True))


def take_steps(step: OptimizerStep, begin: int, end: int) -> None:
    for number in range(begin, end):
        generator = torch.Generator().manual_seed(number)
        for value in step.parameters.values():
            value.grad = torch.randn(value.shape, generator=generator)
        step.apply(torch.ones(1, dtype=torch.bool), rate=1e-2)


def weights(step: OptimizerStep) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in step.parameters.items()}


@pytest.mark.parametrize("method", ["Full", "LoRA"])
def test_moments_in_8_bits_take_the_steps_of_adamw(method):
    few, all_bits = step_of(method, "AdamW8bit"), step_of(method, None)
    before = weights(few)
    take_steps(few, 0, 4)
    take_steps(all_bits, 0, 4)
    for name, value in weights(all_bits).items():
        moved, difference = value - before[name], few.parameters[name].detach() - value
        assert difference.norm() < 0.1 * moved.norm()
    dtypes = {name: few.optimizer.state[value]["state1"].dtype for name, value in few.parameters.items()}
    assert {name: few.moment_dtype(value) for name, value in few.parameters.items()} == dtypes
    large = {name for name, value in few.parameters.items() if value.numel() >= 4096 and "embed" not in name}
    assert {name for name, dtype in dtypes.items() if dtype == torch.uint8} == large != set()


def test_a_run_with_8_bit_moments_goes_on_from_its_checkpoint(tmp_path):
    whole, first, resumed = (step_of("Full", "AdamW8bit", seed) for seed in (0, 0, 1))
    take_steps(whole, 0, 6)
    take_steps(first, 0, 3)
    with Checkpoints(first, CheckpointStore(tmp_path), Accelerator(cpu=True)) as checkpoints:
        checkpoints.save(Progress(step=3))
    restored = Checkpoints(resumed, CheckpointStore(tmp_path), Accelerator(cpu=True)).restore()
    assert restored == Progress(step=3)
    take_steps(resumed, 3, 6)
    assert all(torch.equal(value, resumed.parameters[name]) for name, value in whole.parameters.items())


def test_a_stage_with_8_bit_moments_learns_its_task(suite):
    parameters = train_parameters("baseline", optimisation=optimisation(optimizer="AdamW8bit"))
    assert suite.run_here(suite.order("baseline/kind/0", parameters)) is None
    assert suite.manifest("baseline/kind/0").result["testScore"] > 0.9


# -- a base in 4 bits --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base")
    wide_decoder().save_pretrained(path)
    return path


@pytest.mark.parametrize("method", NF4)
def test_adapters_of_a_base_in_4_bits_have_gradients_also_after_a_validation(method, folder):
    tuned = tuning_method(NF4[method], TASKS)
    model = tuned.prepare(load_quantized(folder, torch.float32, torch.device("cpu")))
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    assert {value.dtype for value in trained.values()} == {torch.float32}
    assert all("lora" in name for name in trained)
    assert sum(map(number_of_weights, model.parameters())) == sum(
        value.numel() for value in (*wide_decoder().parameters(), *trained.values())
    )
    ids = torch.arange(24).reshape(2, 12)

    def gradients() -> dict[str, torch.Tensor | None]:
        model.zero_grad(set_to_none=True)
        with tuned.select_tasks(model, torch.tensor([0, 1])):
            model.train()(ids).logits.square().mean().backward()
        return {name: value.grad for name, value in trained.items()}

    first = gradients()
    with torch.no_grad(), tuned.select_tasks(model, torch.tensor([0, 1])):
        model.eval()(ids)
    second = gradients()
    assert all(torch.equal(value, first[name]) for name, value in second.items())
    assert all(value.any() for name, value in first.items() if "lora_B" in name)


def test_of_a_base_in_4_bits_head_embeddings_and_norms_are_not(folder):
    model = load_quantized(folder, torch.bfloat16, torch.device("cpu"))
    found = {name.rpartition(".")[2] for name, module in model.named_modules() if is_quantized(module)}
    assert found == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    rest = [value for name, value in model.named_parameters() if "proj" not in name]
    assert {value.dtype for value in rest} == {torch.bfloat16}


def test_what_a_base_in_4_bits_has_trained_is_tested_as_it_is_served(suite, tmp_path):
    """The score of the baseline is that of its adapter on the base as it is, which servers have."""
    parameters = train_parameters("baseline", tuning=NF4["LoRA"], optimisation=optimisation(learning_rate=1e-2))
    order = suite.order("baseline/kind/1", parameters)
    assert suite.run_here(order) is None
    score = suite.manifest("baseline/kind/1").result["testScore"]
    base, served = suite.artifact("base") / "model", suite.artifact("baseline/kind/1") / "served"
    assemble_bundle(
        tmp_path / "bundle",
        base=base,
        servables=[ServableWeights("baseline", served)],
        tasks=[TaskBinding(KIND, "baseline", served_by="baseline")],
        precision="fp32",
        max_length=48,
        chat_template=False,
        revision="r",
    )
    engine = Engine.load(tmp_path / "bundle", device="cpu", threads=1)
    rows = read_rows(suite.artifact("prepare/kind"), "test")
    answers = answer_rows(engine, KIND, rows, FileProgressReporter("test", None))
    assert score == score_answers(KIND, answers)
    assert score > 0.9


# -- what refuses them -------------------------------------------------------------------------------------------------


def test_neither_can_be_divided_over_processes(folder):
    full, lora = tuning_method(Tuning(method="Full")), tuning_method(NF4["LoRA"])
    model = wide_decoder()
    assert "the moments of AdamW8bit are not divided" in sharding_problem(model, full, ForwardPath(), 2, "AdamW8bit")
    assert sharding_problem(lora.prepare(model), lora, ForwardPath(), 2, "AdamW8bit") is None
    in_4_bits = lora.prepare(load_quantized(folder, torch.float32, torch.device("cpu")))
    assert "a base in 4 bits is not divided" in sharding_problem(in_4_bits, lora, ForwardPath(), 2)


@pytest.mark.parametrize(
    ("training", "tuning", "setting"),
    [
        ({"optimizer": "AdamW8bit"}, {}, "training.optimizer: AdamW8bit"),
        ({}, {"quantization": "NF4"}, "tuning.quantization: NF4"),
    ],
)
def test_without_its_package_a_setting_is_refused_before_anything_is_read(
    training, tuning, setting, suite, monkeypatch, tmp_path
):
    monkeypatch.setattr(packages, "QUANTIZATION", "a_package_that_is_missing")
    expected = (
        f"{setting} needs the Python package a_package_that_is_missing, which is not installed where this model trains;"
        " install it there, in a cluster in the trainer image, or remove it"
    )
    spec = MultiTaskModelSpec.model_validate(document(training=training, tuning=tuning)["spec"])
    resolved = resolve(spec, DataLocations.of(str(tmp_path), {}), HashCache(None))
    assert f"spec.{expected}" in resolved.problems
    settings = {"tuning": spec.tuning, "optimisation": optimisation(optimizer=spec.training.optimizer)}
    for order in (
        suite.order("base", base_parameters(**settings), output=str(tmp_path / "base")),
        suite.order("baseline/kind/2", train_parameters("baseline", **settings)),
    ):
        failure = suite.run_here(order)
        assert failure is not None
        assert (failure.kind, failure.message) == ("UserError", expected)


def test_a_stop_while_a_package_is_imported_is_a_stop(tmp_path, monkeypatch):
    (tmp_path / "a_slow_package.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGTERM)")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(packages, "QUANTIZATION", "a_slow_package")
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        with pytest.raises(Interrupted, match="stopped by SIGTERM"):
            packages.check_quantization("AdamW8bit", None)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_package_that_cannot_be_imported_is_named(tmp_path, monkeypatch):
    (tmp_path / "a_broken_package.py").write_text("raise OSError('no such library')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(packages, "QUANTIZATION", "a_broken_package")
    with pytest.raises(packages.StageError, match=r"a_broken_package cannot be imported \(no such library\); install"):
        packages.check_quantization("AdamW8bit", None)
