"""Sampling probabilities of the two training mixtures (arXiv 2411.03644, sections 3.2 and 3.3)."""

from __future__ import annotations

from collections.abc import Mapping


def instance_balanced(rows: Mapping[str, int]) -> dict[str, float]:
    """Stage 2: p_i ∝ n_i, every training row equally likely."""
    return mixture(rows, temperature=1.0, size_limit=None)


def mixture(
    rows: Mapping[str, int],
    *,
    temperature: float,
    size_limit: int | None,
    weights: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """Stage 3: p_i = w_i · min(n_i, K)^(1/τ) / Σ_j w_j · min(n_j, K)^(1/τ).

    ``size_limit`` is K and clips first; ``temperature`` is τ ≥ 1 and flattens what is left. K caps the rate at which a
    task is drawn; every row of the task stays in the draw. ``weights``: w of tasks, 1 of those that are not in it.
    """
    if not rows:
        return {}
    empty = sorted(name for name, count in rows.items() if count < 1)
    if empty:
        raise ValueError(f"tasks without training rows cannot be sampled: {', '.join(empty)}")
    if temperature < 1:
        raise ValueError(f"temperature must be at least 1, got {temperature}")
    shares = {
        name: (weights or {}).get(name, 1.0)
        * float(min(count, size_limit) if size_limit is not None else count) ** (1.0 / temperature)
        for name, count in rows.items()
    }
    total = sum(shares.values())
    return {name: share / total for name, share in shares.items()}
