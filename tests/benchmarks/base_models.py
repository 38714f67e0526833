"""Whether each family of base models is computed right, from ``base`` to the engine: docs/results/base-models.md.

    python tests/benchmarks/base_models.py --output PAGE [--only NAME,…]

With ``--only`` the other rows of PAGE stay. Every row is written as soon as it is known. The status is 1 if a family
was accepted and then failed, or gave other answers than plain transformers.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import warnings
from contextlib import redirect_stdout
from pathlib import Path

import torch
from transformers.utils import logging

sys.path.insert(0, str(Path(__file__).parents[1]))

from multitask_trainer.storage.files import write_atomically
from support.family_table import WRONG, page_text, read_rows, verdict_of
from support.family_trial import SCORES, TOLERANCE, try_family
from support.tiny_families import FAMILIES


def main() -> int:
    """Write the page row by row; 1 if a family is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--only", default="", help="families, separated by commas; the other rows of the page stay")
    options = parser.parse_args()
    families = [name for name in options.only.split(",") if name] or list(FAMILIES)
    unknown = sorted(set(families) - set(FAMILIES))
    if unknown:
        parser.error(f"--only: {', '.join(unknown)}: not in tests/support/tiny_families.py")
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    rows = read_rows(options.output) if options.only else {}
    for family in families:
        begun = time.monotonic()
        with (
            tempfile.TemporaryDirectory(prefix="base-models-") as folder,
            Path(os.devnull).open("w") as silent,
            redirect_stdout(silent),
        ):
            row = try_family(family, Path(folder))
        rows[family] = row.line()
        write_atomically(options.output, page_text(rows, scores=SCORES, tolerance=TOLERANCE))
        print(f"{time.monotonic() - begun:5.1f} s  {row.line()}", flush=True)
    wrong = [name for name, line in rows.items() if WRONG in verdict_of(line)]
    if wrong:
        print(f"accepted and wrong: {', '.join(wrong)}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
