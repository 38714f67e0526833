"""What a plan says of stages that do not fit into the memory of what they train on. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from multitask_api.estimates.fitting import USED, Fitted
from multitask_api.machine.gpu_models import GIB
from multitask_api.resource import MultiTaskModel
from multitask_operator.planner.estimate import Estimate
from multitask_operator.planner.stage_costs import StageCost
from multitask_operator.planner.stage_memory import Device, can_divide_weights

_SHORT = 512
"""Tokens of rows below which a shorter limit changes little."""


def misfits(model: MultiTaskModel, estimate: Estimate) -> Iterator[str]:
    """What does not fit and what to change: a sentence for all stages that the same changes help, with the largest."""
    device = estimate.device
    if device is None:
        return
    by_cures: dict[str, list[StageCost]] = {}
    for stage in estimate.stages:
        if stage.fitted is not None and not stage.fitted.fits:
            by_cures.setdefault(", or ".join(_cures(model, stage, stage.fitted, device)), []).append(stage)
    for cures, stages in by_cures.items():
        largest = max((stage.fitted for stage in stages if stage.fitted), key=lambda fitted: fitted.memory.total)
        memory, places = largest.memory, f"each of {largest.gpus} × {device.name}" if largest.gpus > 1 else device.name
        yield (
            f"{', '.join(stage.name for stage in stages)}: does not fit; training takes {memory.total / GIB:.1f} GiB"
            f" with one sequence of {largest.tokens:,} tokens (weights, gradients and optimizer"
            f" {memory.state / GIB:.1f}), and {places} has {device.memory / GIB:.1f}; {cures}"
        )


def _cures(model: MultiTaskModel, stage: StageCost, fitted: Fitted, device: Device) -> Iterator[str]:
    """What to change, what costs least first. Fewer ``batchRows`` do not help: micro-batches are made to fit anyway."""
    spec, trains_all = model.spec, stage.name == "base" or model.spec.tuning.method == "Full"
    is_state_large = fitted.memory.state >= USED * device.memory
    if not is_state_large:  # what the rows take is in the way
        if not fitted.checkpointing:
            yield "set training.gradientCheckpointing to Always"
        if spec.training.max_length > _SHORT:
            yield "lower training.maxLength"
    if stage.name == "base":
        yield "leave out pretraining, which trains all weights"
    elif trains_all:
        yield "set tuning.method to LoRA"
    if is_state_large and trains_all and spec.training.optimizer is None and not spec.tuning.has_experts:
        yield "set training.optimizer to AdamW8bit"
    if is_state_large and not trains_all and spec.tuning.quantization is None:
        yield "set tuning.quantization to NF4"
    yield "take a smaller base model"
    can_divide = device.is_gpu and can_divide_weights(spec, trains_all=trains_all)
    if can_divide and stage.gpus > fitted.gpus:
        yield "set training.sharding to Always, by which the GPUs divide the weights"
    elif can_divide and (fitted.gpus > 1 or is_state_large):
        yield "train on more GPUs of a cluster (training.gpusPerNode), which divide the weights"
    yield "take a GPU with more memory" if device.is_gpu else "train on a GPU, or a machine with more memory"
