"""The choice of a micro-batch's size, against a GPU whose memory is simulated; and what makes passes smaller."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from multitask_api.resource.tuning import Tuning
from multitask_serving.engine.model.backbone import Backbone
from multitask_trainer.base_model.loading import load_base
from multitask_trainer.errors import GpuInUse, StageError
from multitask_trainer.training import loss as loss_module
from multitask_trainer.training.batching.corpus import TextBatches
from multitask_trainer.training.batching.dataset import EncodedDataset
from multitask_trainer.training.batching.layouts import packed
from multitask_trainer.training.batching.sampler import Sampler
from multitask_trainer.training.batching.task_batches import TaskBatches
from multitask_trainer.training.loss import RowMeanLoss
from multitask_trainer.training.micro_batch import MicroBatchSize, PassMemory, choose, fit
from multitask_trainer.training.optimizer import OptimizerStep, TrainingSettings
from multitask_trainer.tuning import tuning_method
from support.simulated_memory import MIB, SimulatedMemory
from support.training_fixtures import optimisation, small_decoder


class Gpu:
    """``fixed`` + ``sequence`` MiB a pass.

    A ``surprise`` is what passes of more than four sequences take beside it, ``first`` what the first one does.
    """

    def __init__(self, memory, *, fixed=10, sequence=8.0, surprise=0.0, first=0.0, can_checkpoint=True):
        self.memory, self.fixed, self.sequence, self.surprise = memory, fixed, sequence, surprise
        self.first, self.can_checkpoint = first, can_checkpoint

    def try_pass(self, sequences):
        used = self.fixed + self.sequence * sequences + (self.surprise if sequences > 4 else 0) + self.first
        self.first = 0
        if used > self.memory:
            raise torch.OutOfMemoryError
        return int(used * MIB)

    def free(self):
        return 0.92 * self.memory * MIB

    def use_checkpointing(self):
        if self.can_checkpoint:
            self.sequence /= 8
        return self.can_checkpoint


@pytest.mark.parametrize(
    ("gpu", "most_tokens", "expected"),
    [
        pytest.param(Gpu(10_000), 100_000, MicroBatchSize(32768), id="much memory: the most that helps"),
        pytest.param(Gpu(10_000), 3000, MicroBatchSize(2560), id="a step has no more"),
        pytest.param(Gpu(200), 100_000, MicroBatchSize(21 * 512), id="what fits"),
        pytest.param(Gpu(100), 100_000, MicroBatchSize(32768, checkpointing=True), id="checkpointing gives more"),
        pytest.param(Gpu(50), 100_000, MicroBatchSize(36 * 512, checkpointing=True), id="and then what fits"),
        pytest.param(Gpu(100, surprise=20), 100_000, MicroBatchSize(16384, checkpointing=True), id="it is tried"),
        pytest.param(Gpu(100, first=64, can_checkpoint=False), 3000, MicroBatchSize(2560), id="libraries stay"),
        pytest.param(Gpu(100, surprise=60, can_checkpoint=False), 100_000, MicroBatchSize(2 * 512), id="and halved"),
        pytest.param(Gpu(20, can_checkpoint=False), 100_000, MicroBatchSize(512), id="one sequence fits"),
        pytest.param(Gpu(9), 100_000, None, id="nothing fits"),
    ],
)
def test_the_size_of_a_micro_batch(gpu, most_tokens, expected):
    size = choose(
        width=512,
        most_tokens=most_tokens,
        try_pass=gpu.try_pass,
        free=gpu.free,
        use_checkpointing=gpu.use_checkpointing,
    )
    assert size == expected
    if size is not None:
        gpu.try_pass(size.tokens // 512)


def test_the_memory_of_a_pass_is_a_line_through_two_passes():
    memory = PassMemory.of(one=130, several=220, sequences=4)
    assert (memory.fixed, memory.sequence) == (100, 30)
    assert [memory.sequences(free) for free in (50, 130, 1000)] == [0, 1, 30]


def rows(count):
    generator = np.random.default_rng(3)
    return [(generator.integers(0, 61, length).astype(np.int32), length // 2) for length in range(6, 6 + count)]


def test_the_loss_of_many_positions_is_computed_in_parts(monkeypatch):
    model = small_decoder()
    (batch,) = packed(rows(12), batch_rows=12, token_budget=1024, width=64)
    whole = RowMeanLoss(model)(batch)
    whole.backward()
    gradients = {name: value.grad.clone() for name, value in model.named_parameters()}
    model.zero_grad()
    seen = []
    hook = Backbone.of(model).head.linear.register_forward_hook(lambda _head, _input, output: seen.append(len(output)))
    monkeypatch.setattr(loss_module, "MOST_LOGITS", 7 * model.config.vocab_size)
    in_parts = RowMeanLoss(model)(batch)
    in_parts.backward()
    hook.remove()
    assert max(seen) == 7
    torch.testing.assert_close(in_parts, whole)
    for name, value in model.named_parameters():
        torch.testing.assert_close(value.grad, gradients[name], msg=name)


METHODS = {
    "Full": Tuning(method="Full"),
    "LoRA": Tuning(method="LoRA", rank=8),
    "CGCLoRA": Tuning(method="CGCLoRA", rank=9),
}


def optimizer_step(method, model, gradient_checkpointing="Auto"):
    settings = TrainingSettings(4, optimisation(), gradient_checkpointing)
    return OptimizerStep(model, settings, method=method, accelerator=Accelerator(cpu=True))


@pytest.mark.parametrize("name", METHODS)
def test_checkpointing_changes_no_gradient(name):
    method = tuning_method(METHODS[name], ("a", "b"))
    torch.manual_seed(1)
    model = method.prepare(small_decoder()).train()
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.02 * torch.randn_like(value))
    step = optimizer_step(method, model)
    (batch,) = packed(rows(12), batch_rows=12, token_budget=1024, width=64, tasks=[0, 1] * 6)
    layer = model.get_decoder().layers[0]
    computed = []
    layer.self_attn.register_forward_hook(lambda *_: computed.append(1))
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            assert step.use_checkpointing()
        computed.clear()
        step.backward(batch)
        assert len(computed) == (2 if checkpointing else 1)
        gradients.append({name: value.grad.clone() for name, value in step.parameters.items()})
        step.optimizer.zero_grad()
    for name, value in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], value, msg=name)


@pytest.mark.parametrize("name", ["LoRA", "CGCLoRA"])
def test_a_frozen_base_is_held_in_bf16_and_what_is_trained_in_fp32(name, base_folder):
    method = tuning_method(METHODS[name], ("a", "b"))
    assert method.freezes_base
    model = method.prepare(load_base(base_folder, torch.bfloat16))
    dtypes = {value.requires_grad: set() for value in model.parameters()}
    for value in model.parameters():
        dtypes[value.requires_grad].add(value.dtype)
    assert dtypes == {True: {torch.float32}, False: {torch.bfloat16}}
    step = optimizer_step(method, model.train())
    (batch,) = packed(rows(6), batch_rows=6, token_budget=1024, width=64, tasks=[0, 1] * 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert step.backward(batch).isfinite()
    assert all(value.grad.dtype == torch.float32 for value in step.parameters.values())


# -- a real model, in a memory that is simulated ----------------------------------------------------------------------

TASKS = ("a", "b")


def task_batches(*, pack, longest=40, rows=16):
    """Two tasks of rows of 5 to ``longest`` tokens; the second one's answers are the longer ones."""
    generator = np.random.default_rng(5)
    datasets = []
    for answer in (1, 3):
        lengths = [longest, *generator.integers(5, longest, 30)]
        prompts = [generator.integers(0, 61, length - answer).tolist() for length in lengths]
        datasets.append(EncodedDataset.of(prompts, [[7] * answer] * len(lengths)))
    sampler = Sampler(dict.fromkeys(TASKS, 0.5), dict.fromkeys(TASKS, 31), batch_rows=rows, seed=1)
    return TaskBatches(sampler, datasets, rows, 10_000, pack=pack)


FITTED = [
    pytest.param(True, 100_000, MicroBatchSize(1024), id="packed: two sequences of a step"),
    pytest.param(False, 100_000, MicroBatchSize(16 * 39), id="padded: all rows of a step"),
    pytest.param(False, 500, MicroBatchSize(16 * 39, checkpointing=True), id="with checkpointing"),
    pytest.param(False, 100, MicroBatchSize(4 * 39, checkpointing=True), id="some rows"),
]


@pytest.mark.parametrize(("pack", "left", "expected"), FITTED)
@pytest.mark.parametrize("name", METHODS)
def test_what_fits_beside_a_model(pack, left, expected, name):
    method = tuning_method(METHODS[name], TASKS)
    model = method.prepare(small_decoder()).train()
    before = {key: value.detach().clone() for key, value in model.named_parameters()}
    step = optimizer_step(method, model)
    batches = task_batches(pack=pack)
    size = fit(step, batches, Accelerator(cpu=True), SimulatedMemory(step, left=left))
    assert size == expected
    assert all(value.grad is None for value in model.parameters())
    assert all(torch.equal(value, before[key]) for key, value in model.named_parameters())


@pytest.mark.parametrize(
    ("setting", "left", "expected"),
    [
        pytest.param("Always", 100_000, MicroBatchSize(16 * 39, checkpointing=True), id="always, with much memory"),
        pytest.param("Never", 500, MicroBatchSize(11 * 39), id="never, with little"),
    ],
)
def test_checkpointing_as_the_settings_say(setting, left, expected):
    method = tuning_method(METHODS["LoRA"], TASKS)
    step = optimizer_step(method, method.prepare(small_decoder()).train(), setting)
    size = fit(step, task_batches(pack=False), Accelerator(cpu=True), SimulatedMemory(step, left=left))
    assert size == expected
    assert step.loss.model.get_decoder().layers[0].gradient_checkpointing == (setting == "Always")


def test_always_is_refused_by_a_model_that_cannot():
    model = small_decoder()
    model.supports_gradient_checkpointing = False
    with pytest.raises(StageError, match=r"training.gradientCheckpointing is Always, and LlamaForCausalLM has no"):
        optimizer_step(tuning_method(METHODS["Full"]), model, "Always")


def test_if_nothing_fits_without_it_the_setting_is_named():
    method = tuning_method(METHODS["LoRA"], TASKS)
    step = optimizer_step(method, method.prepare(small_decoder()).train(), "Never")
    with pytest.raises(StageError, match=r"set training.gradientCheckpointing to Auto, .* or take a smaller base"):
        fit(step, task_batches(pack=False), Accelerator(cpu=True), SimulatedMemory(step, left=30))


FAILURES = [
    pytest.param("LoRA", 30, 0, StageError, "sequence of 39 tokens .* lower training.maxLength .* smaller", id="rows"),
    pytest.param("Full", 30, 0, StageError, "use tuning.method LoRA or CGCLoRA", id="all weights are trained"),
    pytest.param("LoRA", 30, 500, GpuInUse, "other processes hold 0.5 GiB", id="others hold the memory"),
]


@pytest.mark.parametrize(("name", "left", "held", "error", "message"), FAILURES)
def test_what_is_said_if_nothing_fits(name, left, held, error, message):
    method = tuning_method(METHODS[name], TASKS)
    step = optimizer_step(method, method.prepare(small_decoder()).train())
    step.use_checkpointing()
    memory = SimulatedMemory(step, left=left / 2, held=held)
    with pytest.raises(error, match=message):
        fit(step, task_batches(pack=False), Accelerator(cpu=True), memory)
    assert all(value.grad is None for value in step.parameters.values())


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("longest", [40, 600])
def test_no_micro_batch_of_a_step_is_larger_than_the_one_that_was_tried(pack, longest):
    batches = task_batches(pack=pack, longest=longest)
    batches = batches.with_budget(4 * batches.width)
    tried = batches.longest(4)
    for step in range(20):
        micro_batches = batches.at(step)
        assert sum(each.input_ids.numel() for each in micro_batches) <= batches.step_tokens
        for each in micro_batches:
            assert each.input_ids.numel() <= tried.input_ids.numel() <= batches.token_budget
            assert len(each.targets) <= len(tried.targets)


def test_text_can_be_copied_to_a_gpu():
    """What is expanded cannot be pinned."""
    shard = np.arange(200, dtype=np.uint32)
    sampler = Sampler({"text": 1.0}, {"text": 24}, batch_rows=6, seed=1)
    batches = TextBatches((shard,), sampler, length=8, batch_rows=6, token_budget=32)
    for batch in [*batches.at(0), batches.longest(3)]:
        tensors = [value for value in vars(batch).values() if isinstance(value, torch.Tensor)]
        assert all(0 not in value.stride() for value in tensors)
    assert batches.longest(3).tokens == 3 * batches.width
    assert batches.step_tokens == 48
