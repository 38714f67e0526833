"""Whether a base model can be served in bf16, the precision that ``training.precision`` has by default."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from multitask_api.bundle import ForwardPath
from multitask_serving.engine.errors import InvalidBundle
from multitask_serving.engine.model.backbone import Backbone
from multitask_trainer.base_model.checks.rows import BatchTests

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_MOST = 1.0
"""Largest difference of logits in standard deviations. In fp32 the rows are kept apart, so only rounding is left:
measured, below 0.06 in two layers; what is not rounding changes logits by more than their own spread."""


def bf16_problem(model: PreTrainedModel, path: ForwardPath, tokens: Sequence[int]) -> str | None:
    """What goes wrong where ``model`` runs as ``path`` says in bf16, to which it is cast; None if nothing does."""
    model.to(torch.bfloat16)  # type: ignore[arg-type]
    tests, name = BatchTests(model, tokens), type(model).__name__
    plain = tests.plain()
    if plain.error is not None:
        return f"{name} fails in bf16 on a plain row of text ({plain})"
    if not plain.is_right:
        return f"{name} gives logits in bf16 that are not numbers"
    try:
        Backbone.of(model, path).check(model)
    except InvalidBundle as error:
        return f"in bf16 {error}"
    for what, outcome in (("scores of labels", tests.labels(path)), ("cached tokens", tests.cached(path))):
        if outcome.error is not None:
            return f"{name} fails in bf16 with {what} ({outcome})"
        if not outcome.difference <= _MOST:
            return f"{name} gives other {what} in bf16 than in plain forward passes ({outcome})"
    return None
