"""Writes the data of six short tasks over messages to a support desk. The same seed gives the same bytes.

    python examples/one-plus-n/make_data.py [--seed 17] [--out DIR]

Words and noise are those of the support desk beside this folder; the tasks are easier, so that adapters on a small
frozen model learn them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent / "support-desk"))

from generate import Task, among, complaint, draw, maybe_problem, message, problem, render, table, write  # noqa: E402
from phrases import ACTIONS, AREAS, DEADLINES, OBJECTS, PRODUCTS  # noqa: E402

SIZES = (1500, 200, 300)
NOISE = 0.05


def rush(rng: Random) -> tuple[dict[str, str], str]:
    """How soon it has to be done: at once, or later."""
    level = rng.choice((0, 2))
    return {"text": message(rng, [*maybe_problem(rng), render(rng, DEADLINES[level])])}, "now" if level else "later"


def fault(rng: Random) -> tuple[dict[str, str], str]:
    """Whether a product has a fault, or works."""
    product, broken = rng.choice(PRODUCTS), rng.random() < 0.5
    fine = "{the|my|our} $p {is fine|works well|is good|runs well}"
    return {"text": message(rng, [problem(rng, product) if broken else render(rng, fine, p=product)])}, (
        "broken" if broken else "works"
    )


def wish(rng: Random, action: str, thing: str) -> str:
    """A sentence that asks for an action on an object."""
    name = render(rng, OBJECTS[thing])
    return message(rng, [render(rng, rng.choice(ACTIONS[action]), o=f"{{my|the|our}} {name}")])


def action(rng: Random) -> tuple[dict[str, str], str]:
    """What the customer wants."""
    label = rng.choice(list(ACTIONS))
    return {"text": wish(rng, label, rng.choice(list(OBJECTS)))}, label


def thing(rng: Random) -> tuple[dict[str, str], str]:
    """What it is about."""
    label = rng.choice(list(OBJECTS))
    return {"text": wish(rng, rng.choice(list(ACTIONS)), label)}, label


def area(rng: Random) -> tuple[dict[str, str], str]:
    """The area of the only product that is named."""
    label = rng.choice(list(AREAS))
    return {"text": message(rng, [problem(rng, rng.choice(AREAS[label]))])}, label


def task(name: str, labels: Sequence[str], rule: Callable[[Random], tuple[dict[str, str], str]]) -> Task:
    return Task(name, SIZES, NOISE, tuple(labels), rule, among(tuple(labels)))


TASKS = (
    task("complaint", ("complaint", "other"), complaint),
    task("rush", ("now", "later"), rush),
    task("fault", ("broken", "works"), fault),
    task("action", tuple(ACTIONS), action),
    task("object", tuple(OBJECTS), thing),
    task("area", tuple(AREAS), area),
)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Write the data of the example with one base and two groups.")
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--out", type=Path, default=FOLDER / "data")
    options = parser.parse_args(arguments)
    data = {each.name: draw(each, options.seed) for each in TASKS}
    write(data, options.out)
    print(table(data))


if __name__ == "__main__":
    main()
