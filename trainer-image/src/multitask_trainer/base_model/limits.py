"""What a base model takes at most. Without torch: `mtm validate` asks before anything is loaded."""

from __future__ import annotations


def max_length_problem(max_length: int, positions: int | None) -> str | None:
    """What is wrong with ``training.maxLength`` for a base of so many positions; None also if they are not known."""
    if positions is None or max_length <= positions:
        return None
    return (
        f"{max_length} tokens are more than the base model takes, {positions} (its max_position_embeddings); lower"
        f" training.maxLength to {positions} or less, or use another base model"
    )
