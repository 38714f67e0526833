"""Chooses the attention of packed rows: varlen attention, where a trial shows that it gives what a mask gives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers.modeling_layers import GradientCheckpointingLayer

from multitask_api.estimates.packed_rows import mask_reason
from multitask_api.stage_io.results import PackedAttention
from multitask_serving.engine.model.masks import LayerMasks
from multitask_trainer.runtime.progress import TrainingLog
from multitask_trainer.training.attention.varlen import VARLEN
from multitask_trainer.training.batching.batches import MicroBatch
from multitask_trainer.training.optimizer import OptimizerStep

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import PreTrainedConfig

_TOLERANCES = {"no": (1e-4, 1e-3), "bf16": (1e-2, 0.2)}
"""Mixed precision → the largest relative difference of losses, and of gradients. In a trial of small random models,
rows that see each other change losses by 0.9 % and gradients by 62 % at least; bf16 alone, by 0.02 % and 1 %."""
_VALUES = 256
"""Of each gradient so many are compared: gradients may be as large as the model."""


class PackedBatches(Protocol):
    """Batches whose rows may share a sequence."""

    @property
    def pack(self) -> bool:
        """Whether several rows share a sequence."""

    def trial(self) -> list[MicroBatch]:
        """A few short rows, laid out as all others, of fewer tokens than any pass of a training has."""

    def with_varlen(self) -> Self:
        """The same rows for a model that has `varlen_attention`."""


Batches = TypeVar("Batches", bound=PackedBatches)


def choose_attention(
    model: nn.Module, step: OptimizerStep, batches: Batches, accelerator: Accelerator, *, max_length: int
) -> tuple[Batches, PackedAttention | None]:
    """Give ``model`` varlen attention where it can have it; the batches for it, and how their rows are kept apart.

    All processes call it before the first step: it makes two forward and backward passes of a few short rows, and
    leaves no gradients. ``max_length`` are the tokens of the longest row of a training. None if no rows share a
    sequence.

    Raises `torch.OutOfMemoryError` where all processes make a pass together.
    """
    if not batches.pack:
        return batches, None
    causal: Any = model
    base: Any = causal.get_base_model() if hasattr(causal, "get_base_model") else causal
    on_gpu = accelerator.device.type == "cuda"
    problem = varlen_problem(
        base.config.get_text_config(),
        max_length=max_length,
        in_full_precision=on_gpu and accelerator.mixed_precision == "no",
    )
    if problem is None:
        if step.tries_together:  # as the passes do that find the size of a micro-batch
            step.use_checkpointing()
        problem = _of_all(_trial(base, step, batches, _TOLERANCES[accelerator.mixed_precision]), accelerator)
    log = TrainingLog(is_written=accelerator.is_main_process)
    if problem is not None:
        log.line(f"packed rows are kept apart by a mask: {problem}")
        return batches, PackedAttention(kind="Mask", reason=problem)
    base.set_attn_implementation(VARLEN)
    log.line("packed rows are kept apart by varlen attention")
    return batches.with_varlen(), PackedAttention(kind="Varlen", reason="in a trial it gave what a mask gives")


def varlen_problem(config: PreTrainedConfig, *, max_length: int, in_full_precision: bool) -> str | None:
    """Why a decoder, by its configuration, cannot have varlen attention; None if nothing is known."""
    return mask_reason(
        max_length=max_length,
        in_full_precision=in_full_precision,
        window=LayerMasks.of(config).reach,
        has_attention_dropout=any("att" in name for name in _dropouts(config)),
    )


def difference_problem(mask: Sequence[Tensor], varlen: Sequence[Tensor], tolerances: Sequence[float]) -> str | None:
    """What of losses and gradients differs by more than its tolerance; None if nothing does."""
    for what, expected, actual, tolerance in zip(("losses", "gradients"), mask, varlen, tolerances, strict=True):
        difference, size = float((actual - expected).norm()), float(expected.norm())
        if not difference <= tolerance * size:  # also if it is NaN
            return f"varlen attention gives other {what} than a mask: they differ by {difference:.3g} of {size:.3g}"
    return None


def _dropouts(config: PreTrainedConfig) -> list[str]:
    """The settings by which a decoder drops values at random."""
    settings = config.to_dict().items()
    return [name for name, value in settings if "drop" in name and isinstance(value, float) and value > 0]


def _trial(base: Any, step: OptimizerStep, batches: PackedBatches, tolerances: Sequence[float]) -> str | None:
    """Why varlen attention must not be used; None if it may. The attention of ``base`` is as before."""
    try:
        return difference_problem(*_both_ways(base, step, batches), tolerances)
    except torch.OutOfMemoryError as error:
        if step.tries_together:  # the others wait for this process in that pass, and not where problems are gathered
            raise
        # A pass of a training is larger: it would not fit without checkpointing either.
        if step.is_checkpointing or not step.use_checkpointing():
            return _failure(error)
    except Exception as error:  # noqa: BLE001 - whatever it is, a mask does without
        return _failure(error)
    # Here the error is gone, and what it held in its frames.
    return _trial(base, step, batches, tolerances)


def _failure(error: Exception) -> str:
    return f"varlen attention fails: {type(error).__name__}: {error}"


def _both_ways(
    base: Any, step: OptimizerStep, batches: PackedBatches
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """`_losses_and_gradients` with a mask, and with varlen attention."""
    before = base.config._attn_implementation
    with _without_dropout(step.loss, recomputes=not _dropouts(base.config.get_text_config())):
        try:
            expected = _losses_and_gradients(step, batches)
            base.set_attn_implementation(VARLEN)
            return expected, _losses_and_gradients(step, batches.with_varlen())
        finally:
            base.set_attn_implementation(before)


@contextmanager
def _without_dropout(loss: nn.Module, *, recomputes: bool) -> Iterator[None]:
    """A context in which nothing is dropped at random: each of two passes would drop other values.

    With ``recomputes``, layers are computed again in the backward pass as in training, if that is switched on: such a
    layer asks whether itself is in training mode. What it drops itself, not by a module in it, it would drop then.
    """
    before = {module: module.training for module in loss.modules()}
    try:
        for module in before:
            module.training = recomputes and isinstance(module, GradientCheckpointingLayer)
        yield
    finally:
        for module, was_training in before.items():
            module.training = was_training


def _losses_and_gradients(step: OptimizerStep, batches: PackedBatches) -> tuple[Tensor, Tensor]:
    """The sum of the losses, (1,) or (runs,), and the first values of each gradient, in fp32."""
    try:
        losses = torch.stack([step.backward(batch).float().reshape(-1) for batch in batches.trial()]).sum(0)
        gradients = [value.grad for value in step.parameters.values() if value.grad is not None]
        own = [value.to_local() if isinstance(value, DTensor) else value for value in gradients]
        return losses, torch.cat([value.flatten()[:_VALUES].float() for value in own])
    finally:
        step.optimizer.zero_grad(set_to_none=True)


def _of_all(problem: str | None, accelerator: Accelerator) -> str | None:
    """The problem of this process, or that another one has one."""
    if accelerator.num_processes == 1:
        return problem
    count = accelerator.reduce(torch.tensor(float(problem is not None), device=accelerator.device), "sum")
    return problem or ("varlen attention fails in another process" if float(count) else None)
