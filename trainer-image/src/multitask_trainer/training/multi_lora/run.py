"""From the orders of several LoRA runs to trained weights and a `TrainResult` of each."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn

from multitask_api.bundle import ForwardPath
from multitask_api.stage_io.parameters import TrainParameters
from multitask_api.stage_io.results import PackedAttention, TaskPoint, TrainResult
from multitask_api.stages import joint_training
from multitask_trainer.base_model.loading import load_base, read_forward_path
from multitask_trainer.errors import GpuInUse, Interrupted, MicroBatchTooLarge, StageError
from multitask_trainer.runtime.context import StageContext
from multitask_trainer.runtime.packages import check_quantization
from multitask_trainer.training.accelerator import make_accelerator
from multitask_trainer.training.attention.choice import choose_attention
from multitask_trainer.training.batching.task_batches import TaskBatches
from multitask_trainer.training.checkpoint import CheckpointStore
from multitask_trainer.training.loop import TrainingLoop
from multitask_trainer.training.multi_lora.batches import JointBatches
from multitask_trainer.training.multi_lora.loop import JointLoop, Member
from multitask_trainer.training.multi_lora.step import AdapterStep, JointStep
from multitask_trainer.training.optimizer import TrainingSettings
from multitask_trainer.training.run import RunData, gpu_memory, train
from multitask_trainer.training.stopping import EarlyStopping
from multitask_trainer.training.validation import validate
from multitask_trainer.tuning.multi_lora import MultiLora

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import PreTrainedModel

Rest = Callable[[], TrainResult]
"""What is left of a run whose training has ended: leave ``weights/``; the result. Raises the error of that run."""


@dataclass(frozen=True)
class _Run:
    stage: StageContext
    parameters: TrainParameters
    data: RunData
    path: ForwardPath

    def batches(self, accelerator: Accelerator) -> TaskBatches:
        return self.data.batches(self.parameters.optimisation.batch_rows, accelerator, self.path)

    @property
    def settings(self) -> TrainingSettings:
        checkpointing = self.stage.order.gradient_checkpointing or "Auto"
        return TrainingSettings(self.parameters.max_steps, self.parameters.optimisation, checkpointing)


def train_together(stages: Sequence[StageContext]) -> Iterator[tuple[StageContext, Rest]]:
    """Train all orders on one base; gives each as its training ends. One after the other if they cannot be together.

    They can if `why_apart` has no reason, if every adapted layer takes several adapters, and if all fit into the GPU.
    Those that are left when they do not fit any more go on from their checkpoints one after the other.
    """
    parameters = [stage.parameters(TrainParameters) for stage in stages]
    apart = [(stage, partial(train, stage, each)) for stage, each in zip(stages, parameters, strict=True)]
    if why_apart(stages, parameters) is not None:
        yield from apart
        return
    check_quantization(parameters[0].optimisation.optimizer, parameters[0].tuning)
    optimisation, path = parameters[0].optimisation, read_forward_path(stages[0].input("base") / "model")
    accelerator = make_accelerator(
        device=stages[0].device, threads=stages[0].order.threads, precision=optimisation.precision
    )
    base = stages[0].input("base") / "model"
    loaded = load_base(base, torch.bfloat16 if accelerator.mixed_precision == "bf16" else torch.float32)
    runs = []
    for stage, each in zip(stages, parameters, strict=True):
        try:
            data = RunData.read(stage, each, path)
            data.check_base(loaded, each.optimisation.max_length)
            runs.append(_Run(stage, each, data, path))
        except Exception as error:  # noqa: BLE001 - what one task's rows are must not end the other runs
            yield stage, partial(_raise, error)
    together = _Together.of(runs, loaded, accelerator) if len(runs) > 1 else None
    del loaded
    if together is not None:
        try:
            yield from together.train()
            return
        except MicroBatchTooLarge as error:
            sys.stdout.write(f"these runs do not fit together any more and go on one after the other: {error}\n")
            sys.stdout.flush()
            runs = together.open_runs
            together.model.to("cpu")  # whoever has the rest of an ended run may hold it still
    del together
    accelerator.free_memory()  # it holds the model that did not fit
    for run in runs:
        yield run.stage, partial(train, run.stage, run.parameters)


def why_apart(stages: Sequence[StageContext], parameters: Sequence[TrainParameters]) -> str | None:
    """Why these runs do not train together; None if nothing is known that keeps them apart."""
    first, order = parameters[0], stages[0].order
    if len(stages) == 1:
        return "there is one run only"
    if (reason := joint_training.why_apart(first.tuning, order.sharding, order.report_to)) is not None:
        return reason
    if any(stage.distributed.world_size > 1 for stage in stages):
        return "several processes train one run"
    if any(_shared(each) != _shared(first) for each in parameters):
        return "they differ in the adapters, the precision or the rows of a batch"
    if any(stage.order.inputs["base"] != order.inputs["base"] for stage in stages):
        return "they have different bases"
    return None


def _shared(parameters: TrainParameters) -> tuple[object, ...]:
    """What has to be the same in all runs."""
    return parameters.tuning, parameters.optimisation.precision, parameters.optimisation.batch_rows


@dataclass(frozen=True)
class _Together:
    """The runs on one model, ready to train."""

    runs: Sequence[_Run]
    model: nn.Module
    method: MultiLora
    members: Sequence[Member]
    stoppings: Sequence[EarlyStopping]
    loop: JointLoop
    attention: PackedAttention | None
    device: torch.device

    @classmethod
    def of(cls, runs: Sequence[_Run], base: PreTrainedModel, accelerator: Accelerator) -> _Together | None:
        """None if the base's layers do not take several adapters, or the GPU not so many, or the base has dropout.

        Its masks are drawn for a whole pass, so a run would depend on the others.
        """
        if _has_dropout(base):
            return None
        seeds = [run.parameters.optimisation.seed for run in runs]
        method = MultiLora(runs[0].parameters.tuning, seeds)
        try:
            model = method.prepare(base)
            joint = JointStep(
                model, runs[0].settings, method=method, runs=len(runs), accelerator=accelerator, path=runs[0].path
            )
            stoppings = [run.data.stopping(run.parameters) for run in runs]
            members = [
                _member(run, joint, model, method=method, adapter=index, stopping=stopping, accelerator=accelerator)
                for index, (run, stopping) in enumerate(zip(runs, stoppings, strict=True))
            ]
            own = [run.batches(accelerator) for run in runs]
            lengths = [run.parameters.optimisation.max_length for run in runs]
            batches, attention = choose_attention(
                model, joint, JointBatches(own, own[0].token_budget), accelerator, max_length=max(lengths)
            )
            loop = JointLoop(members, joint, batches, accelerator)
            loop.fit()
        except (StageError, GpuInUse, torch.OutOfMemoryError):
            return None  # each by itself they may be trained; if not, they say why
        return cls(runs, model, method, members, stoppings, loop, attention, accelerator.device)

    @property
    def open_runs(self) -> list[_Run]:
        """Those that have not ended."""
        return [self.runs[index] for index in self.loop.open_indices]

    def train(self) -> Iterator[tuple[StageContext, Rest]]:
        for index, error in self.loop.run():
            rest = partial(self._rest, index) if error is None else partial(_raise, error)
            yield self.runs[index].stage, rest
            self.model.to(self.device)

    def _rest(self, index: int) -> TrainResult:
        run, member = self.runs[index], self.members[index]
        self.method.fill_slot(self.model, member.step.parameters)
        self.method.save(self.model, run.stage.artifact_folder / "weights")
        result = run.data.result(
            member.loop.progress,
            self.stoppings[index],
            trained_parameters=sum(value.numel() for value in member.step.parameters.values()),
            gpu_memory=gpu_memory(self.loop.micro_batch, self.device),
            packed_attention=self.attention,
        )
        if self.device.type == "cuda":  # what answers the test rows loads a base of its own
            self.model.to("cpu")
            torch.cuda.empty_cache()
        return result.model_copy(update={"trained_together": len(self.runs)})


def _has_dropout(base: PreTrainedModel) -> bool:
    """Whether the base, in training, drops values at random: by a layer of its own, or as its settings say."""
    settings = base.config.get_text_config().to_dict().items()
    rates = [value for name, value in settings if "drop" in name and isinstance(value, float)]
    layers = [layer.p for layer in base.modules() if isinstance(layer, nn.Dropout)]
    return max((*rates, *layers), default=0.0) > 0


def _member(
    run: _Run,
    joint: JointStep,
    model: nn.Module,
    *,
    method: MultiLora,
    adapter: int,
    stopping: EarlyStopping,
    accelerator: Accelerator,
) -> Member:
    step = AdapterStep(joint, model, run.settings, method=method, adapter=adapter, accelerator=accelerator)

    def points() -> dict[str, TaskPoint]:
        method.fill_slot(model, step.parameters)
        return validate(model, run.data.validations, select=lambda _: nullcontext(), accelerator=accelerator)

    loop = TrainingLoop(
        step,
        run.batches(accelerator),
        run.settings,
        accelerator=accelerator,
        store=CheckpointStore(run.stage.work_folder / "checkpoint", run.stage.order.checkpoint),
        reporter=run.stage.reporter,
        validate=points,
        stopping=stopping,
        name=run.stage.order.stage,
    )
    return Member(loop, step)


def _raise(error: Exception | Interrupted) -> TrainResult:
    raise error
