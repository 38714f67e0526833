"""The memory of training steps on a CPU, counted, beside what is estimated of them.

Layers save the same tensors on a GPU, so the layout is the same; the kernels' own scratch memory is not in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from multitask_api.bundle import ForwardPath
from multitask_api.estimates.memory import MemoryModel, MicroBatchShape, TrainingMemory
from multitask_api.estimates.shape import ModelShape
from multitask_api.resource.training import GradientCheckpointing, Optimizer
from multitask_api.resource.tuning import Tuning
from multitask_trainer.base_model.quantization import load_quantized
from multitask_trainer.training.batching.batches import MicroBatch
from multitask_trainer.training.loss_meter import LossMeter
from multitask_trainer.training.multi_lora.step import AdapterStep, JointStep
from multitask_trainer.training.optimizer import OptimizerStep, TrainingSettings
from multitask_trainer.tuning import tuning_method
from multitask_trainer.tuning.multi_lora import MultiLora
from support.training_fixtures import optimisation

TASKS = ("a", "b")


@dataclass(frozen=True)
class Setting:
    """What is trained, and how: micro-batches of ``rows`` rows of ``length`` tokens, ``answer`` of them targets."""

    config: dict[str, Any]
    """As in ``config.json``."""
    tuning: Tuning
    rows: int
    length: int
    answer: int = 2
    mixed: bool = False
    checkpointing: bool = False
    packed: bool = False
    optimizer: Optimizer | None = None
    runs: int = 1
    """LoRA runs on one base, with rows of each."""

    def estimated(self) -> TrainingMemory:
        """By `MemoryModel`."""
        shape = ModelShape.of_config(AutoConfig.for_model(**self.config).to_dict())
        assert shape is not None
        model = MemoryModel(
            shape, self.tuning, self.mixed, self.checkpointing, len(TASKS), self.optimizer, runs=self.runs
        )
        return model.of(MicroBatchShape(self.rows * self.length, self.length, self.rows * self.answer, self.packed))

    def measured(self) -> Measured:
        """Of the second step, in two micro-batches: then there are moments, and gradients of the first one."""
        with _accelerator(mixed=self.mixed) as accelerator:
            step, steps = self._steps(accelerator)
            batches = [self._micro_batch(seed) for seed in range(2)]
            meter, present = LossMeter(accelerator), torch.ones(len(TASKS), dtype=torch.bool)

            def run() -> None:
                if not isinstance(step, JointStep):
                    step.run(batches, present, rate=1e-4, meter=meter)
                    return
                step.losses(batches)
                for each in steps:
                    each.apply(present[:1], rate=1e-4)
                step.optimizer.zero_grad(set_to_none=True)

            run()
            states = [value for one in steps for each in one.optimizer.state.values() for value in each.values()]
            moments = [value for value in states if isinstance(value, torch.Tensor)]
            gradients = sum(4 * value.numel() for value in step.parameters.values())
            weights = [*step.loss.model.parameters(), *step.parameters.values()]
            return Measured(
                weights=_bytes([part for value in weights for part in _parts(value)]),
                gradients=gradients,
                optimizer=_bytes(moments),
                passes=peak_bytes(run) - gradients,
            )

    @property
    def _settings(self) -> TrainingSettings:
        checkpointing: GradientCheckpointing = "Always" if self.checkpointing else "Never"
        return TrainingSettings(4, optimisation(optimizer=self.optimizer), checkpointing)

    def _steps(self, accelerator: Accelerator) -> tuple[OptimizerStep, Sequence[OptimizerStep]]:
        """What makes the gradients, and what steps with them."""
        checkpointing: GradientCheckpointing = "Always" if self.checkpointing else "Never"
        settings = TrainingSettings(4, optimisation(optimizer=self.optimizer), checkpointing)
        if self.runs > 1:
            return self._joint_steps(settings, accelerator)
        method = tuning_method(self.tuning, TASKS)
        model = method.prepare(self._base(torch.bfloat16 if self.mixed and method.freezes_base else torch.float32))
        step = OptimizerStep(model, settings, method=method, accelerator=accelerator)
        step.loss.train()
        return step, [step]

    def _joint_steps(
        self, settings: TrainingSettings, accelerator: Accelerator
    ) -> tuple[OptimizerStep, Sequence[OptimizerStep]]:
        method = MultiLora(self.tuning, range(self.runs))
        model = method.prepare(self._base(torch.bfloat16 if self.mixed else torch.float32))
        joint = JointStep(model, settings, method=method, runs=self.runs, accelerator=accelerator, path=ForwardPath())
        joint.loss.train()
        return joint, [
            AdapterStep(joint, model, settings, method=method, adapter=index, accelerator=accelerator)
            for index in range(self.runs)
        ]

    def _base(self, dtype: torch.dtype) -> PreTrainedModel:
        torch.manual_seed(0)
        config = AutoConfig.for_model(**self.config, attn_implementation="sdpa", use_cache=False)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
        if self.tuning.quantization is None:
            return model.to(dtype)
        with TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            return load_quantized(Path(folder), dtype, torch.device("cpu"))

    def _micro_batch(self, seed: int) -> MicroBatch:
        generator = torch.Generator().manual_seed(seed)
        size, vocabulary = (self.rows, self.length), self.config["vocab_size"]
        ends = torch.arange(self.length - self.answer, self.length)
        positions = (torch.arange(self.rows)[:, None] * self.length + ends).flatten()
        halves = torch.arange(self.length) // -(-self.length // 2) + 1  # two rows a sequence
        by_row = torch.arange(self.rows) % (self.runs if self.runs > 1 else len(TASKS))
        return MicroBatch(
            input_ids=torch.randint(0, vocabulary, size, generator=generator),
            position_ids=torch.arange(self.length).expand(size).contiguous(),
            segment_ids=halves.int().expand(size).contiguous() if self.packed else None,
            logit_positions=positions,
            targets=torch.randint(0, vocabulary, (len(positions),), generator=generator),
            weights=torch.full((len(positions),), 1 / len(positions)),
            tokens=self.rows * self.length,
            task_ids=by_row[:, None].expand(size).contiguous() if self.packed else by_row,
        )


@dataclass(frozen=True)
class Measured:
    """Bytes. ``passes``: the most that forward, backward and optimizer step allocate beyond the rest."""

    weights: int
    gradients: int
    optimizer: int
    passes: int

    @property
    def total(self) -> int:
        """The sum."""
        return self.weights + self.gradients + self.optimizer + self.passes


def peak_bytes(work: Callable[[], object]) -> int:
    """The most bytes that ``work`` has allocated at once on the CPU, beyond what there was before it.

    From the profiler, which sees every allocation and release of torch's allocator.
    """
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        work()
    results: Any = profile.profiler.kineto_results
    events = sorted((e for e in results.events() if e.name() == "[memory]"), key=lambda event: event.start_ns())
    held = peak = 0
    for event in events:
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def llama(width: int, **changes: Any) -> dict[str, Any]:
    """The configuration of a small Llama; its head is the embedding."""
    sizes = {
        "model_type": "llama", "hidden_size": width, "intermediate_size": width * 8 // 3 // 8 * 8, "vocab_size": 512,
        "num_hidden_layers": 4, "num_attention_heads": width // 16, "num_key_value_heads": width // 32,
        "tie_word_embeddings": True,
    }  # fmt: skip
    return sizes | changes


def _parts(value: Any) -> list[Any]:
    """A parameter with the scales of its quantised weights."""
    state = getattr(value, "quant_state", None)
    return [value] if state is None else [value, state.absmax, state.state2.absmax]


def _bytes(tensors: list[Any]) -> int:
    """Of their storages, each counted once."""
    return sum({each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in tensors}.values())


@contextmanager
def _accelerator(*, mixed: bool) -> Iterator[Accelerator]:
    """In bf16 (autocast) or fp32; accelerate has one precision for a process, so it forgets it before and after."""
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        yield Accelerator(cpu=True, mixed_precision="bf16" if mixed else "no")
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
