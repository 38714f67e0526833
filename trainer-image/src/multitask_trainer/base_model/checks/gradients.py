"""Which weights a row of text reaches: processes that divide the weights all have to reach the same ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from multitask_serving.engine.model.backbone import Backbone

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def has_partial_gradients(model: PreTrainedModel, tokens: Sequence[int]) -> bool:
    """Whether some weights of the decoder get no gradient from some row, such as those of experts that no token chose.

    A row of text might choose all experts by chance; of several experts, a single token chooses a part. Two forward
    passes; the graph of autograd is read, no gradient is computed.
    """
    backbone = Backbone.of(model)
    parameters = list(backbone.decoder.parameters())
    before = [value.requires_grad for value in parameters]
    try:
        for value in parameters:
            value.requires_grad = True
        reached = [_reached(backbone, row) for row in (tokens, tokens[:1])]
    finally:
        for value, needed in zip(parameters, before, strict=True):
            value.requires_grad = needed
    return any(id(value) not in each for value in parameters for each in reached)


def _reached(backbone: Backbone, row: Sequence[int]) -> set[int]:
    """The ids of the weights that the hidden states of one row depend on."""
    with torch.enable_grad():
        hidden = backbone.hidden_states(torch.tensor([list(row)]), torch.arange(len(row))[None])
    return _leaves(hidden.grad_fn)


def _leaves(node: Any) -> set[int]:
    """The ids of the tensors in which the graph below ``node`` ends."""
    leaves: set[int] = set()
    seen = {node}
    waiting = [node]
    while waiting:
        node = waiting.pop()
        if node is None:
            continue
        if hasattr(node, "variable"):
            leaves.add(id(node.variable))
        below = [step for step, _ in node.next_functions if step not in seen]
        seen.update(below)
        waiting += below
    return leaves
