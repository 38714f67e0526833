"""A short vector in place of a gradient of millions of entries: a count sketch, which keeps inner products.

Every entry is multiplied by a random sign and added to a random place (feature hashing, Weinberger et al. 2009, arXiv
0902.2206). The inner product of two sketches is that of the gradients, without bias; its error has a standard deviation
of about the product of their lengths, divided by the square root of the sketch's size. Grad-TAG (arXiv 2409.06091)
projects gradients for the same purpose.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from multitask_trainer.training.batching.sampler import task_key

if TYPE_CHECKING:
    from torch import Tensor

Floats = NDArray[np.float32]

SKETCHES = "sketches.npy"
"""Of a task's artifact: (chunks, size) float32."""
SIZE = 16384
"""Entries of a sketch: an error of 1 % of the lengths."""


def sketch(gradients: Iterable[tuple[str, Tensor]], *, seed: int, size: int = SIZE) -> Floats:
    """The sketch of all ``gradients`` together, (size,): a function of the seed, the names and the values alone.

    The places and signs of a weight follow from the seed and its name (a counter-based generator), so tasks that are
    sketched apart, or later, can be compared.
    """
    total = np.zeros(size, dtype=np.float64)
    for name, gradient in gradients:
        values = gradient.detach().float().flatten().cpu().numpy()
        key = np.array([seed, task_key(name, "sketch")], dtype=np.uint64)
        drawn = np.random.Generator(np.random.Philox(key=key)).integers(0, 2 * size, len(values), dtype=np.uint32)
        signs = np.where(drawn & 1, np.float32(-1), np.float32(1))
        total += np.bincount(drawn >> 1, weights=signs * values, minlength=size)
    return total.astype(np.float32)
