"""The gradients of several runs in one pass, and the optimizer of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from multitask_api.bundle import ForwardPath
from multitask_trainer.training.batching.batches import MicroBatch
from multitask_trainer.training.loss import RowMeanLoss
from multitask_trainer.training.optimizer import OptimizerStep, TrainingSettings
from multitask_trainer.tuning.multi_lora import MultiLora

if TYPE_CHECKING:
    from accelerate import Accelerator


class RunLosses(RowMeanLoss):
    """The loss of each of ``runs`` runs: (runs,), with zero for a run that has no row in the micro-batch."""

    def __init__(self, model: nn.Module, path: ForwardPath | None, runs: int) -> None:
        super().__init__(model, path)
        self._runs = runs

    def forward(self, batch: MicroBatch) -> Tensor:
        """Σ weight · nll over the target tokens of each run. What one of them has, NaN included, is in no other."""
        losses = self.target_losses(batch) * batch.weights
        if batch.task_ids is None:
            raise ValueError("the rows of a micro-batch of several runs have to say of which run they are")
        owners = batch.task_ids[batch.logit_positions // batch.input_ids.shape[1]]
        return losses.new_zeros(self._runs).index_add(0, owners, losses)


class JointStep(OptimizerStep):
    """Makes the gradients of all adapters of a model that `MultiLora.prepare` gave; steps none of them."""

    def __init__(
        self,
        model: nn.Module,
        settings: TrainingSettings,
        *,
        method: MultiLora,
        runs: int,
        accelerator: Accelerator,
        path: ForwardPath,
    ) -> None:
        loss = accelerator.prepare_model(RunLosses(model, path, runs), evaluation_mode=True)
        method.move_to(accelerator.device)
        super().__init__(
            model,
            settings,
            method=method,
            accelerator=accelerator,
            path=path,
            loss=loss,
            parameters=method.factors,
        )

    def losses(self, micro_batches: Sequence[MicroBatch]) -> Tensor:
        """Add the gradients of a step; the loss of each run, (runs,) on the device. Raises `MicroBatchTooLarge`."""
        return torch.stack(self.gradients(micro_batches)).sum(0)


class AdapterStep(OptimizerStep):
    """The optimizer of one adapter; its gradients are those that `JointStep` has made."""

    def __init__(
        self,
        joint: JointStep,
        model: nn.Module,
        settings: TrainingSettings,
        *,
        method: MultiLora,
        adapter: int,
        accelerator: Accelerator,
    ) -> None:
        weights = method.of_adapter(adapter)
        super().__init__(model, settings, method=method, accelerator=accelerator, loss=joint.loss, parameters=weights)
        self._multi_lora = method
        self._adapter = adapter

    def apply(self, present: Tensor, *, rate: float) -> None:
        """See `OptimizerStep.apply`."""
        for name, gradient in self._multi_lora.gradients(self._adapter).items():
            self.parameters[name].grad = gradient
        super().apply(present, rate=rate)
