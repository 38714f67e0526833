"""Floating-point operations of training, from the shape of the base model (Kaplan et al., arXiv 2001.08361, 2.1)."""

from __future__ import annotations

from multitask_api.estimates.shape import ModelShape


def training_flops(shape: ModelShape, *, trains_all: bool, checkpointing: bool, sequence: int) -> int:
    """Operations for each token of sequences of ``sequence`` tokens.

    A multiplication with an addition is two. The forward pass takes two for each weight of the linear layers, and four
    for each query's number and token that it attends to, of which there are half as many as tokens. The backward pass
    takes as many for the inputs, and for trained weights again as many; with checkpointing the forward pass is taken
    twice. The head runs on targets only and is left out, and so are adapters.
    """
    linear = 2 * shape.linear_weights
    attention = 2 * shape.layers * shape.queries * sequence
    forward, backward = linear + attention, linear + 2 * attention + (linear if trains_all else 0)
    return forward * (2 if checkpointing else 1) + backward
