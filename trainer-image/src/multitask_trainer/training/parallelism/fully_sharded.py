"""Weights divided over the processes: fully sharded data parallelism (Zhao et al., arXiv 2304.11277), FSDP2 of PyTorch.

Each process holds its part of every weight along the first dimension, with that part's gradient and optimizer state. A
layer's weights are gathered before it runs, forward and backward, and dropped after it. Where a base is frozen, its
weights are divided and those that are trained, which are few and in another number format, are whole in each process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from multitask_serving.engine.model.backbone import Backbone
from multitask_trainer.errors import StageError
from multitask_trainer.training.batching.batches import MicroBatch
from multitask_trainer.training.loss import RowMeanLoss
from multitask_trainer.training.parallelism.averaging import average_gradients
from multitask_trainer.training.parallelism.lockstep import lockstep
from multitask_trainer.training.parallelism.tensors import leave_meta, share_weight

if TYPE_CHECKING:
    from accelerate import Accelerator


class FullySharded:
    """See `Parallelism`."""

    has_collective_passes = True

    def __init__(self, accelerator: Accelerator, *, frozen_base: bool) -> None:
        """``frozen_base``: what is trained stays whole in each process."""
        self._accelerator = accelerator
        self._frozen_base = frozen_base
        self._loss: Any = None
        self._decoder: nn.Module | None = None

    @property
    def is_sharded(self) -> bool:
        """Whether the weights that are trained are divided."""
        return not self._frozen_base

    def prepare(self, loss: RowMeanLoss) -> Any:
        """Layer by layer to the device, this process's part of each; the model has been on the CPU until then.

        Weights are those of the first process, as in DistributedDataParallel; the others' may be on the meta device.
        Raises `StageError` for a model that does not say what its layers are.
        """
        model, device = loss.model, self._accelerator.device
        is_main, made = self._accelerator.is_main_process, dict[Tensor, Tensor]()
        weights = {name: value.data for name, value in loss.named_parameters()} if is_main else {}
        whole = {value for value in model.parameters() if value.requires_grad} if self._frozen_base else set()
        for value in whole:
            value.data = value.data.to(device)
        options: dict[str, Any] = {
            "mesh": init_device_mesh(device.type, (self._accelerator.num_processes,)),
            "ignored_params": whole,
            "mp_policy": self._precision(),
        }
        for part in (*_layers(model), loss):
            leave_meta(part, made)
            fully_shard(part, **options)
        for name, value in loss.named_parameters():
            share_weight(value, weights.pop(name, None))
        for buffer in loss.buffers():
            distributed.broadcast(buffer, src=0)
        autocast: Any = self._accelerator.autocast()
        loss.forward = autocast(loss.forward)  # type: ignore[method-assign]
        self._loss = loss
        self._decoder = Backbone.of(model).decoder
        return loss

    def micro_batches(self, own: Sequence[MicroBatch]) -> Sequence[MicroBatch]:
        """As many in each process, since each pass needs all processes: the rest have weight 0."""
        most = torch.tensor(len(own), device=self._accelerator.device)
        distributed.all_reduce(most, distributed.ReduceOp.MAX)
        filler = replace(own[-1], weights=torch.zeros_like(own[-1].weights), tokens=0)
        return [*own, *[filler] * (int(most) - len(own))]

    def all_fit(self, *, own: bool) -> bool:
        """See `Parallelism.all_fit`."""
        return own

    def reduce_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Those of what is whole in each process."""
        if self._frozen_base:
            average_gradients(parameters, self._accelerator.num_processes, device=self._accelerator.device)

    @contextmanager
    def evaluation(self, idle_pass: Callable[[], None]) -> Iterator[None]:
        """See `lockstep`; embeddings, head and norm are gathered once."""
        assert self._decoder is not None  # `prepare` was called
        root: FSDPModule = self._loss
        root.unshard()
        try:
            with lockstep(self._decoder, idle_pass, self._accelerator.device):
                yield
        finally:
            root.reshard()

    def _precision(self) -> MixedPrecisionPolicy:
        """In bf16, weights are gathered in it and gradients summed in fp32. A frozen base is in its dtype already."""
        if self._accelerator.mixed_precision == "bf16" and not self._frozen_base:
            return MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
        return MixedPrecisionPolicy(cast_forward_inputs=False)


def _layers(model: nn.Module) -> list[nn.Module]:
    """What is gathered at once: the modules that transformers says are not to be split, the outermost of them."""
    causal: Any = model
    base: nn.Module = causal.get_base_model() if hasattr(causal, "get_base_model") else causal
    names = set(getattr(base, "_no_split_modules", None) or ())
    found = [(name, module) for name, module in base.named_modules() if type(module).__name__ in names]
    inner = {name for name, _ in found for outer, _ in found if name.startswith(f"{outer}.")}
    layers = [module for name, module in found if name not in inner]
    if not layers:
        raise StageError(
            f"training.sharding: {type(base).__name__} does not say what its layers are; set sharding: Never, or use "
            "another base model"
        )
    return layers
