"""How often the interval of the ratio contains it: ``python tests/benchmarks/interval_coverage.py [--repeats 4000]``.

Prints the tables of docs/results/interval-coverage.md. Suites of tasks with known ratios are simulated with 2 to 5
seeds; nothing is trained. A stable task is one of the first of its suite, a noisy one the last.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.interval_simulation import SUITES, Outcome, simulate_answers, simulate_runs

SEEDS = (2, 3, 4, 5)
ROWS = 1000
HEAD = (
    "| suite | seeds | stable: covered | half-width | narrow | noisy: covered | half-width | narrow |",
    "|---|---|---|---|---|---|---|---|",
)


def line(suite: str, seeds: int, outcomes: list[Outcome]) -> str:
    """One row of a table."""
    cells = [f"{item.covered:.3f} | {item.half_width:.3f} | {100 * item.narrow:.0f} %" for item in outcomes]
    return f"| {suite} | {seeds} | {' | '.join(cells)} |"


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=4000)
    parser.add_argument("--repeats-with-rows", type=int, default=400)
    options = parser.parse_args()
    print(f"\nRuns alone, {options.repeats:,} repetitions:\n\n" + "\n".join(HEAD))
    for name, suite in SUITES.items():
        for seeds in SEEDS:
            last = len(suite) - 1
            print(line(name, seeds, simulate_runs(suite, (0, last), seeds=seeds, repeats=options.repeats)), flush=True)
    print(f"\nWith {ROWS:,} test rows, {options.repeats_with_rows:,} repetitions:\n\n" + "\n".join(HEAD))
    name, suite = next(iter(SUITES.items()))
    for seeds in SEEDS:
        found = simulate_answers(suite, (0, len(suite) - 1), seeds=seeds, rows=ROWS, repeats=options.repeats_with_rows)
        print(line(name, seeds, found), flush=True)


if __name__ == "__main__":
    main()
