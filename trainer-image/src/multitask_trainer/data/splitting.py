"""Divides rows into train, validation and test by a hash of their prompt fields."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from multitask_api.resource.tasks import DataSplit, Split


def assign_splits(inputs: Sequence[int], labels: Sequence[str | None], split: DataSplit) -> list[Split]:
    """The split of each row; ``inputs`` are `rows.input_hash` of the rows, ``labels`` None for generation.

    A row's place depends on its input alone, so added rows move no other, and rows with the same input stay together.
    Every label gets the shares up to chance. The exception is a label that chance keeps out of a split: its lowest
    input goes to test, its highest to validation, if it has enough inputs for all splits. Only these may move when rows
    are added.
    """
    positions = {value: _position(value, split.seed) for value in set(inputs)}
    chosen = {value: _split_at(position, split) for value, position in positions.items()}
    by_label: dict[str | None, set[int]] = {}
    for value, label in zip(inputs, labels, strict=True):
        by_label.setdefault(label, set()).add(value)
    for label in sorted(by_label, key=str):
        chosen |= _missing(sorted(by_label[label], key=positions.__getitem__), chosen, split)
    chosen |= _missing(sorted(positions, key=positions.__getitem__), chosen, split)
    return [chosen[value] for value in inputs]


def _split_at(position: float, split: DataSplit) -> Split:
    """Test rows from below, validation rows from above: another share of one does not move rows of the other."""
    if position < (split.test or 0.0):
        return "test"
    return "validation" if position >= 1.0 - (split.validation or 0.0) else "train"


def _missing(ordered: Sequence[int], chosen: Mapping[int, Split], split: DataSplit) -> dict[int, Split]:
    """The inputs of one label, ordered by position, that go to splits in which the label is not.

    Test takes the lowest and validation the highest, which no other split needs: they lie where theirs begins.
    """
    first = 0 if split.test is None else 1
    last = len(ordered) - (0 if split.validation is None else 1)
    if first >= last:
        return {}  # too few inputs to be in every split
    wanted: list[tuple[Split, int]] = [("train", ordered[(first + last) // 2])]
    if split.validation is not None:
        wanted.insert(0, ("validation", ordered[-1]))
    if split.test is not None:
        wanted.insert(0, ("test", ordered[0]))
    moved: dict[int, Split] = {}
    for name, value in wanted:
        if all(moved.get(other, chosen[other]) != name for other in ordered):
            moved[value] = name
    return moved


def _position(value: int, seed: int) -> float:
    """A number in [0, 1) that is uniform over inputs."""
    hashed = hashlib.blake2b(value.to_bytes(8, "little"), digest_size=8, key=seed.to_bytes(8, "little"))
    return int.from_bytes(hashed.digest(), "little") / 2**64
