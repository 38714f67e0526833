"""``mtm predict``: the program of `multitask_serving.predict`, whose ``--file`` reads what training reads."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection
from pathlib import Path

from multitask_serving.predict import BadArguments, FileRow, main

MOST_LISTED = 20


def read_rows(uri: str, fields: Collection[str] | None) -> list[FileRow]:
    """The rows at an address, as training reads them: a file of any format, a folder, or a split on the hub.

    What is wrong with a column that is not in ``fields`` is no problem; None stands for all. Relative paths start at
    the current folder. Raises `BadArguments` with the location of everything that cannot be read.
    """
    from multitask_trainer.data.reading import DataLocations, ReadProblem, read  # two seconds, for --file alone

    rows: list[FileRow] = []
    problems = []
    for item in read(uri, DataLocations.of(Path.cwd(), os.environ), fields):
        location = item.file if item.line is None else f"{item.file}:{item.line}"
        if isinstance(item, ReadProblem):
            problems.append(f"{location}: {item.reason}")
        else:
            rows.append((location, item.values))
    if problems:
        raise BadArguments("\n".join(problems[:MOST_LISTED]), more=max(0, len(problems) - MOST_LISTED))
    return rows


if __name__ == "__main__":
    sys.exit(main(read_file=read_rows))
