"""The affinity of two tasks, and how sure it is, from the sketches of their gradients. Pure.

A step of length η along the gradient of task i lowers the loss of task j by η ⟨g_i, g_j⟩ / ‖g_i‖ (first order), and a
step of that length along its own gradient by η ‖g_j‖. The affinity is the first over the second, the cosine
⟨g_i, g_j⟩ / (‖g_i‖ ‖g_j‖): it is the same in both directions.

Gradients of few rows are mostly noise. Products of different parts of the rows are free of it: ⟨g_i, g_j⟩ is the
product of the two means, ‖g_i‖² the mean product of two different parts of task i. How much the products differ from
part to part gives a standard error. A length that is not surely above zero counts as the least that would be: the
affinity is then too near to zero, and its sign is as sure as before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

CONFIDENCE = 0.95
_WIDEST = 9.99

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Affinities:
    """Symmetric, (tasks, tasks). ``half_widths`` are of intervals that hold all together with `CONFIDENCE`."""

    tasks: tuple[str, ...]
    values: Doubles
    half_widths: Doubles


def estimate(sketches: Mapping[str, NDArray[np.float32]]) -> Affinities:
    """``sketches``: task → (chunks, size), at least two chunks; the number of chunks may differ."""
    tasks = tuple(sketches)
    parts = [np.asarray(sketches[task], dtype=np.float64) for task in tasks]
    found = [[_product(part, other) for other in parts] for part in parts]
    products = np.array([[mean for mean, _ in row] for row in found])
    errors = np.sqrt([[variance for _, variance in row] for row in found])
    chunks = np.array([len(part) for part in parts])
    freedom = np.minimum.outer(chunks, chunks) - 1
    lengths = np.array([_length(part) for part in parts])
    scale = np.outer(lengths, lengths)
    pairs = max(1, len(tasks) * (len(tasks) - 1) // 2)
    reach = special.stdtrit(freedom, 1 - (1 - CONFIDENCE) / 2 / pairs) * errors
    known = scale > 0
    values = np.divide(products, scale, out=np.zeros_like(products), where=known)
    half_widths = np.divide(reach, scale, out=np.ones_like(reach), where=known)
    # Noise takes an estimate beyond what a cosine can be: the end of its interval nearer to zero stays where it is.
    half_widths -= (np.abs(values) - 1).clip(0)
    np.fill_diagonal(values, 1.0)
    np.fill_diagonal(half_widths, 0.0)
    return Affinities(tasks, values.clip(-1, 1), half_widths.clip(0, _WIDEST))


def _product(part: Doubles, other: Doubles) -> tuple[float, float]:
    """The product of two means, and its variance; (chunks, size) each, the numbers of chunks may differ.

    The products of all chunks with all chunks are a two-way table of random effects. Rows and columns vary by the noise
    of one task along the other's mean, which has noise itself: that part, the interaction, is in both and counts once.
    """
    table = part @ other.T
    rows, columns, mean = table.mean(axis=1), table.mean(axis=0), float(table.mean())
    row_term, column_term = (float(_variance_of_mean(values[:, None])[0]) for values in (rows, columns))
    residuals = table - rows[:, None] - columns[None] + mean
    interaction = float((residuals**2).sum()) / ((len(rows) - 1) * (len(columns) - 1) * table.size)
    return mean, max(row_term + column_term - interaction, row_term, column_term)


def _length(part: Doubles) -> float:
    """‖g‖ of a task without the noise, or the least that is surely above zero. ``part``: (chunks, size)."""
    count = len(part)
    total = part.sum(axis=0)
    # Of each part the product with the mean of the others.
    products = (part @ total - np.einsum("cs,cs->c", part, part)) / (count - 1)
    error = 2 * float(np.sqrt(_variance_of_mean(products[:, None])[0]))
    least = float(special.stdtrit(count - 1, 1 - (1 - CONFIDENCE) / 2)) * error
    return float(np.sqrt(max(products.mean(), least, 0.0)))


def _variance_of_mean(values: Doubles) -> Doubles:
    """Of the mean over the first axis."""
    variance: Doubles = values.var(axis=0, ddof=1) / len(values)
    return variance
