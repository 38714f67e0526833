"""Floating-point operations of training, from the shape of the base model (Kaplan et al., arXiv 2001.08361, 2.1)."""

from __future__ import annotations

from multitask_api.estimates.shape import ModelShape


def training_flops(weights: int, *, attention: int = 0, trains_all: bool, checkpointing: bool = False) -> int:
    """Operations for each token, of a model with ``weights`` in linear layers and `attention_flops`.

    A multiplication with an addition is two. The forward pass takes two for each weight. The backward pass takes as
    many for the inputs, and for trained weights again as many; with checkpointing the forward pass is taken twice. The
    head runs on targets only and is left out, and so are adapters.
    """
    linear = 2 * weights
    forward, backward = linear + attention, linear + 2 * attention + (linear if trains_all else 0)
    return forward * (2 if checkpointing else 1) + backward


def attention_flops(shape: ModelShape, sequence: int) -> int:
    """Operations of a forward pass for each token of sequences of ``sequence`` tokens: four for each query's number and
    token that it attends to, of which there are half as many as tokens.
    """
    return 2 * shape.layers * shape.queries * sequence
