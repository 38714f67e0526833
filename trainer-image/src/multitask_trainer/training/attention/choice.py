"""Chooses the attention of packed rows: varlen attention, where a trial shows that it gives what a mask gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

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
"""Mixed precision → the largest relative difference of losses, and of gradients. Rows that see each other change the
losses of a small random model by 0.3 % and its gradients by 36 %."""
_VALUES = 256
"""Of each gradient so many are compared: gradients may be as large as the model."""


class PackedBatches(Protocol):
    """Batches whose rows may share a sequence."""

    @property
    def pack(self) -> bool:
        """Whether several rows share a sequence."""

    def trial(self) -> list[MicroBatch]:
        """A few short rows, laid out as all others."""

    def with_varlen(self) -> Self:
        """The same rows for a model that has `varlen_attention`."""


Batches = TypeVar("Batches", bound=PackedBatches)


def choose_attention(
    model: nn.Module, step: OptimizerStep, batches: Batches, accelerator: Accelerator, *, max_length: int
) -> tuple[Batches, PackedAttention | None]:
    """Give ``model`` varlen attention where it can have it; the batches for it, and how their rows are kept apart.

    All processes call it before the first step: it makes two forward and backward passes of a few short rows of at most
    ``max_length`` tokens, and leaves no gradients. None if no rows share a sequence.
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
        before = base.config._attn_implementation
        problem = _of_all(_trial(base, step, batches, _TOLERANCES[accelerator.mixed_precision]), accelerator)
        if problem is not None:
            base.set_attn_implementation(before)
    log = TrainingLog(is_written=accelerator.is_main_process)
    if problem is not None:
        log.line(f"packed rows are kept apart by a mask: {problem}")
        return batches, PackedAttention(kind="Mask", reason=problem)
    log.line("packed rows are kept apart by varlen attention")
    return batches.with_varlen(), PackedAttention(kind="Varlen", reason="in a trial it gave what a mask gives")


def varlen_problem(config: PreTrainedConfig, *, max_length: int, in_full_precision: bool) -> str | None:
    """Why a decoder, by its configuration, cannot have varlen attention; None if nothing is known."""
    if in_full_precision:
        return "the kernel of varlen attention takes half precision only"
    reach = LayerMasks.of(config).reach
    if reach is not None and reach < max_length:
        return f"layers see no more than {reach} tokens, and rows may have {max_length}"
    values = config.to_dict().items()
    if any("att" in name and "drop" in name and isinstance(value, float) and value > 0 for name, value in values):
        return "the base model drops attention at random"
    return None


def difference_problem(mask: Sequence[Tensor], varlen: Sequence[Tensor], tolerances: Sequence[float]) -> str | None:
    """What of losses and gradients differs by more than its tolerance; None if nothing does."""
    for what, expected, actual, tolerance in zip(("losses", "gradients"), mask, varlen, tolerances, strict=True):
        difference, size = float((actual - expected).norm()), float(expected.norm())
        if not difference <= tolerance * size:  # also if it is NaN
            return f"varlen attention gives other {what} than a mask: they differ by {difference:.3g} of {size:.3g}"
    return None


def _trial(base: Any, step: OptimizerStep, batches: PackedBatches, tolerances: Sequence[float]) -> str | None:
    """Why varlen attention, which ``base`` has afterwards, must not be used; None if it may."""
    is_training = step.loss.training
    step.loss.eval()  # dropout would draw others for each
    try:
        expected = _losses_and_gradients(step, batches)
        base.set_attn_implementation(VARLEN)
        actual = _losses_and_gradients(step, batches.with_varlen())
    except Exception as error:  # noqa: BLE001 - whatever it is, a mask does without
        return f"varlen attention fails: {type(error).__name__}: {error}"
    finally:
        step.loss.train(is_training)
    return difference_problem(expected, actual, tolerances)


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
