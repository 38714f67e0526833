"""Whether a training divides its weights over its processes: ``training.sharding``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import torch
from torch import distributed, nn

from multitask_api.bundle import ForwardPath
from multitask_api.estimates.memory import TRAINED_BYTES
from multitask_api.estimates.sharding import divides_weights
from multitask_api.resource.training import Optimizer, Sharding
from multitask_trainer.base_model.quantization import is_quantized
from multitask_trainer.errors import StageError
from multitask_trainer.training.device_memory import CudaMemory
from multitask_trainer.training.parallelism.data_parallel import DataParallel, Parallelism
from multitask_trainer.training.parallelism.fully_sharded import FullySharded
from multitask_trainer.training.parallelism.tensors import has_unnamed_tensors
from multitask_trainer.tuning.method import TuningMethod

if TYPE_CHECKING:
    from accelerate import Accelerator


def load_parallel(
    load: Callable[[bool], nn.Module],
    sharding: Sharding | None,
    method: TuningMethod,
    path: ForwardPath,
    accelerator: Accelerator,
    *,
    optimizer: Optimizer | None = None,
) -> tuple[nn.Module, Parallelism]:
    """The model, and how the processes hold its weights; all processes call it.

    ``load`` gives what `TuningMethod.prepare` gave; with True on the meta device. Where weights are divided, only the
    first process reads them. A frozen base all read: which of its layers are adapted is found by running it.
    """
    may_divide = sharding == "Always" or (sharding != "Never" and accelerator.device.type != "cpu")
    is_skeleton = may_divide and not method.freezes_base and not accelerator.is_main_process
    model = load(is_skeleton)
    if is_skeleton and has_unnamed_tensors(model):
        model, is_skeleton = load(False), False
    parallelism = choose_parallelism(sharding, model, method, path, accelerator, optimizer=optimizer)
    if is_skeleton and not parallelism.is_sharded:
        model = load(False)
    return model, parallelism


def choose_parallelism(
    sharding: Sharding | None,
    model: nn.Module,
    method: TuningMethod,
    path: ForwardPath,
    accelerator: Accelerator,
    *,
    optimizer: Optimizer | None = None,
) -> Parallelism:
    """How the processes hold the weights of ``model``, which `TuningMethod.prepare` gave; all processes call it.

    Raises `StageError` where ``Always`` cannot be.
    """
    problem = sharding_problem(model, method, path, accelerator.num_processes, optimizer)
    if problem is not None:
        if sharding == "Always":
            raise StageError(f"training.sharding: Always: {problem}")
        return DataParallel(accelerator)
    if divides_weights(sharding, accelerator.num_processes, state_bytes(model.parameters()), _free(accelerator)):
        return FullySharded(accelerator, frozen_base=method.freezes_base)
    return DataParallel(accelerator)


def _free(accelerator: Accelerator) -> float:
    """Bytes of the GPU that has the fewest; of a CPU no limit, which the processes share."""
    if accelerator.device.type == "cpu":
        return math.inf
    free = torch.tensor(CudaMemory(accelerator.device).free(), device=accelerator.device)
    distributed.all_reduce(free, distributed.ReduceOp.MIN)
    return int(free)


def state_bytes(parameters: Iterable[nn.Parameter]) -> int:
    """Of all weights, with gradients and optimizer state of those that are trained."""
    return sum(value.numel() * (TRAINED_BYTES if value.requires_grad else value.element_size()) for value in parameters)


def sharding_problem(
    model: nn.Module, method: TuningMethod, path: ForwardPath, processes: int, optimizer: Optimizer | None = None
) -> str | None:
    """Why the weights of this training cannot be divided; None if they can."""
    if processes == 1:
        return (
            "this stage runs in one process, which has nobody to share weights with; set training.gpusPerNode or "
            "training.nodes so that it has several, or sharding: Auto"
        )
    if path.partial_gradients and not method.freezes_base:
        return (
            "weights of this base model that a row does not reach, such as experts, have no gradient, and the "
            "processes would wait for each other's; use tuning.method LoRA, or sharding: Never"
        )
    if optimizer == "AdamW8bit" and not method.freezes_base:
        return "the moments of AdamW8bit are not divided; remove training.optimizer, or set sharding: Never"
    if any(map(is_quantized, model.modules())):
        return "a base in 4 bits is not divided; remove tuning.quantization, or set sharding: Never"
    if any(type(module).__name__ == "ParamWrapper" for module in model.modules()):
        return (
            "LoRA of stacked experts changes weights of the base in each pass, which cannot be divided then; name "
            "other layers in tuning.targetModules, or set sharding: Never"
        )
    return None
