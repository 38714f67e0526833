"""LoRA adapters of several runs on one frozen base: each row of a batch is computed with the adapter of its run.

A layer has the factors of all adapters in two tensors, A (adapters, r, in) and B (adapters, out, r). The factors of a
row's adapter are taken out by index and never mixed with others, so what one run computes, NaN included, reaches no
other run. The adapter that PEFT itself keeps in the layer is a slot: for validation and for saving it is given the
weights of one run, and the layer then is the plain LoRA that a run by itself has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from peft.tuners.lora import Linear, LoraLayer
from peft.tuners.lora.layer import LoraVariant
from torch import Tensor, nn

from multitask_api.resource.tuning import Tuning
from multitask_trainer.errors import StageError
from multitask_trainer.tuning.lora import Lora

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_SLOT = "default"
_FACTORS = (f".lora_A.{_SLOT}.weight", f".lora_B.{_SLOT}.weight")


class MultiLora(Lora):
    """See `TuningMethod`; the "tasks" of `select_tasks` are adapters, by index: (rows,) int64.

    ``seeds`` are those of the runs, one for each adapter: new weights are drawn as `Lora` draws them for a run alone.
    """

    def __init__(self, tuning: Tuning, seeds: Sequence[int]) -> None:
        super().__init__(tuning)
        self._seeds = tuple(seeds)
        self._selection = _Selection()
        self.factors: dict[str, nn.Parameter] = {}
        """After `prepare`: A and B of all adapters, (adapters, …), under the names that a run alone has for its own."""

    def prepare(self, model: PreTrainedModel) -> nn.Module:
        """A PEFT model that trains ``factors`` and no weight of its own.

        Raises `StageError` if a layer takes one adapter only.
        """
        drawn: dict[int, dict[str, Tensor]] = {}
        torch.manual_seed(self._seeds[0])
        adapted = super().prepare(model)
        for seed in self._seeds:
            if seed not in drawn:
                drawn[seed] = _draw(adapted, seed)
        for name, layer in adapted.named_modules():
            if not isinstance(layer, LoraLayer):
                continue
            if type(layer) is not Linear:
                raise StageError(f"{name}: adapters of several runs cannot share this layer")
            factors = [nn.Parameter(torch.stack([drawn[seed][name + end] for seed in self._seeds])) for end in _FACTORS]
            self.factors |= {name + end: factor for end, factor in zip(_FACTORS, factors, strict=True)}
            module: Any = layer
            module.stacked = (*factors, self._selection)  # in a tuple, so that they are no parameters of the layer
            layer.lora_variant[_SLOT] = _StackedLora()
        for name, value in adapted.named_parameters():
            if name.endswith(_FACTORS):
                value.requires_grad = False
        return adapted

    def move_to(self, device: torch.device) -> None:
        """Move ``factors``; they are no part of the model."""
        for factor in self.factors.values():
            factor.data = factor.data.to(device)

    def of_adapter(self, adapter: int) -> dict[str, nn.Parameter]:
        """The weights of one adapter as parameters of their own; they share the memory of ``factors``."""
        return {name: nn.Parameter(factor.data[adapter]) for name, factor in self.factors.items()}

    def gradients(self, adapter: int) -> dict[str, Tensor]:
        """Views of the gradients of one adapter, by the same names. Raises `RuntimeError` before a backward pass."""
        views = {}
        for name, factor in self.factors.items():
            if factor.grad is None:
                raise RuntimeError("there are no gradients; make a backward pass first")
            views[name] = factor.grad[adapter]
        return views

    def fill_slot(self, model: nn.Module, weights: Mapping[str, Tensor]) -> None:
        """Make ``model``, outside `select_tasks`, that of one adapter: ``weights`` as `of_adapter` gives them."""
        slots = dict(model.named_parameters())
        with torch.no_grad():
            for name, value in weights.items():
                slots[name].copy_(value)

    def select_tasks(self, model: nn.Module, tasks: Tensor | None) -> AbstractContextManager[None]:
        """The adapter of each row; None: what is in the slot, for all."""
        del model
        return self._selection.use(tasks)


class _Selection:
    """Which adapter each row of the current forward passes has; one for a model, read by its layers."""

    current: Tensor | None = None

    @contextmanager
    def use(self, adapters: Tensor | None) -> Iterator[None]:
        before, self.current = self.current, adapters
        try:
            yield
        finally:
            self.current = before


class _StackedLora(LoraVariant):
    """W x + (α / r) B_k A_k x for a row of adapter k, in a layer whose ``stacked`` has A, B and the selection."""

    @staticmethod
    def forward(module: Any, active_adapter: str, x: Tensor, result: Tensor, **kwargs: Any) -> Tensor:
        """``x`` (…, in) and W x → the layer's output. The rows lie one after the other, whatever the leading sizes."""
        del kwargs
        scaling: float = module.scaling[active_adapter]
        stacked: tuple[Tensor, Tensor, _Selection] = module.stacked
        a, b, selection = stacked
        adapters = selection.current
        if adapters is None:
            slot: Tensor = module.lora_B[active_adapter](module.lora_A[active_adapter](x))
            return result + slot * scaling
        by_row = x.reshape(len(adapters), -1, x.shape[-1])
        down = torch.bmm(by_row, a.index_select(0, adapters).mT)
        up = torch.bmm(down, b.index_select(0, adapters).mT)
        return result + up.reshape(result.shape) * scaling


def _draw(model: nn.Module, seed: int) -> dict[str, Tensor]:
    """What a run with ``seed`` begins with: an adapter beside the slot draws in the order in which the slot did."""
    peft: Any = model
    beside = f"seed-{seed}"
    torch.manual_seed(seed)
    peft.add_adapter(beside, peft.peft_config[_SLOT])
    ends = {f".{factor}.{beside}.weight": f".{factor}.{_SLOT}.weight" for factor in ("lora_A", "lora_B")}
    drawn = {
        name.removesuffix(end) + slot: value.detach().clone()
        for name, value in model.named_parameters()
        for end, slot in ends.items()
        if name.endswith(end)
    }
    peft.delete_adapter(beside)
    return drawn
