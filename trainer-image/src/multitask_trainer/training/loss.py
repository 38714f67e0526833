"""The loss: mean over a row's target tokens (EOS included), then mean over the rows of the global batch.

A mean over all tokens would give a 50-token answer the weight of 25 two-token labels. The micro-batch's weights, set in
``batching/layouts.py``, contain both means, so the loss of a step is the sum over micro-batches and processes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from multitask_api.bundle import ForwardPath
from multitask_api.estimates.memory import MOST_LOGITS
from multitask_serving.engine.model.backbone import Backbone
from multitask_trainer.training.batching.batches import MicroBatch


class RowMeanLoss(nn.Module):
    """Wraps a causal language model; the forward pass gives the loss, so that what it is wrapped in sees all of it.

    The head runs on target positions only: for a small model over a whole vocabulary it costs more than the layers.
    """

    def __init__(self, model: nn.Module, path: ForwardPath | None = None) -> None:
        super().__init__()
        self.model = model
        self._backbone = Backbone.of(model, path)

    def forward(self, batch: MicroBatch) -> Tensor:
        """Σ weight · nll over the micro-batch's target tokens; a scalar, in nats."""
        return (self.target_losses(batch) * batch.weights).sum()

    def target_losses(self, batch: MicroBatch) -> Tensor:
        """The nll of each target token, (N,)."""
        hidden = target_states(self._backbone, batch)
        size = max(1, MOST_LOGITS // self._backbone.head.vocabulary)
        if len(hidden) <= size:
            return self._losses(hidden, batch.targets)
        parts = zip(torch.split(hidden, size), torch.split(batch.targets, size), strict=True)
        # The logits of a part are computed again in the backward pass, and only there are its gradients kept.
        return torch.cat([checkpoint(self._losses, *part, use_reentrant=False) for part in parts])

    def _losses(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Those of these positions, (N, H)."""
        return cross_entropy(self._backbone.head(hidden).float(), targets, reduction="none")


def freeze_outside_decoder(model: nn.Module) -> None:
    """Exempt from training what of the base model no row of text reaches (`Backbone.weights_outside`).

    `RowMeanLoss` runs decoder and head alone, so all else would have no gradient. What a tuning method keeps
    beside the base model, such as embeddings of tasks, is trained.
    """
    causal: Any = model
    base: nn.Module = causal.get_base_model() if hasattr(causal, "get_base_model") else causal
    for value in Backbone.of(model).weights_outside(base):
        value.requires_grad = False


def target_logits(backbone: Backbone, batch: MicroBatch) -> Tensor:
    """The logits where target tokens are predicted, (N, V) fp32."""
    logits: Tensor = backbone.head(target_states(backbone, batch))
    return logits.float()


def target_states(backbone: Backbone, batch: MicroBatch) -> Tensor:
    """The decoder's output where target tokens are predicted, (N, H)."""
    hidden = backbone.hidden_states(
        batch.input_ids, batch.position_ids, batch.attention_mask, **batch.attention_arguments
    )
    return hidden.reshape(-1, hidden.shape[-1])[batch.logit_positions]
