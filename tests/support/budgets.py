"""The largest model, and how much may be written about it."""

from __future__ import annotations

from support.graph_builders import task

STATUS_BYTES = 48 * 1024
STAGE_ROWS = 12
#: The API server's limit of all annotations of an object together is 256 KiB; ours leave the rest to others.
ANNOTATION_BYTES = 16 * 1024


def largest(labels=("a", "b", "c"), groups=4):
    """As many tasks as a model may have, their names and those of their Manual groups as long as may be."""
    return [
        task(
            f"{number:03d}".rjust(63, "t"),
            labels=list(labels),
            group=f"{number % groups:03d}".rjust(63, "g"),
        )
        for number in range(128)
    ]
