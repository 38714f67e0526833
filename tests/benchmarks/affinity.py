"""Whether affinity says what leaving a task out does: ``python tests/benchmarks/affinity.py --data DIR``.

Prints the tables of docs/results/affinity.md. ``DIR`` has folders of tasks, each with ``task.yaml`` and
``train.jsonl.gz`` and ``validation.jsonl.gz`` (rows with ``text`` and ``label``).

Affinity is estimated at the base model. Then all tasks are trained together, and once without each of them, the others
getting as many rows as before. The effect of a task on another is the other's validation loss without it minus that
with it: above zero it helped. A copy of one task with its labels turned round is compared too, and not trained.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray
from scipy import stats

sys.path.insert(0, str(Path(__file__).parents[1]))

from multitask_api.resource.tuning import Tuning
from multitask_api.stage_io.affinity import AffinityResult
from multitask_api.stage_io.parameters import AffinityParameters, GradientsParameters, StageParameters, TaskDefinition
from multitask_api.stage_io.results import TrainResult
from multitask_trainer.data.rows import Row
from support.training_fixtures import TrainingSuite, base_parameters, optimisation, pretraining, train_parameters

TASKS = ("sst5", "tweet_irony", "tweet_offensive", "tweet_emotion", "cola")
TURNED = "tweet_offensive"
"""The task of two labels that has a copy with the other one in every row."""
COPY = "turned-round"
MAX_LENGTH = 96
REPLICATES = 2000


class OpenSuite(TrainingSuite):
    """The tasks of a folder as prepare artifacts."""

    def __init__(self, root: Path, data: Path, tasks: Sequence[str], *, train: int, others: int) -> None:
        self.data = data
        self.names = (*tasks, COPY)
        self.definitions = {name: self._definition(name) for name in self.names}
        super().__init__(root, train=train, others=others)

    def rows(self, task: str, split: str, count: int, seed: int) -> list[Row]:
        """The first ``count`` rows of a split; of the copy the same rows as of its task, with the labels shifted."""
        source = TURNED if task == COPY else task
        found = []
        name = "validation" if split == "test" else split  # nothing here reads test rows
        with gzip.open(self.data / source / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
            for line in itertools.islice(lines, count):
                row = json.loads(line)
                found.append(Row({"text": row["text"]}, row["label"]))
        if task != COPY:
            return found
        labels = self.definitions[TURNED].labels
        shifted = dict(zip(labels, (*labels[1:], labels[0]), strict=True))
        return [replace(row, label=shifted[row.answer]) for row in found]

    def result_of(self, stage: str, parameters: StageParameters, inputs: Sequence[str] = ()) -> dict[str, object]:
        """Run a stage; its result."""
        failure = self.run_here(self.order(stage, parameters, inputs=inputs))
        if failure is not None:
            raise SystemExit(f"{stage}: {failure.message}")
        return self.manifest(stage).result

    def _definition(self, name: str) -> TaskDefinition:
        source = TURNED if name == COPY else name
        task = yaml.safe_load((self.data / source / "task.yaml").read_text("utf-8"))
        return TaskDefinition(
            name=name, type="Classification", labels=tuple(task["labels"]), prompt="{text}\n:", metric="Accuracy"
        )


def estimate(suite: OpenSuite, tasks: Sequence[str], rows: int) -> tuple[AffinityResult, float]:
    """The affinities at the base, and the seconds that they took."""
    began = time.monotonic()
    names = [f"gradients/{task}" for task in tasks]
    for name, task in zip(names, tasks, strict=True):
        parameters = GradientsParameters(task=suite.definitions[task], rows=rows, max_length=MAX_LENGTH, seed=17)
        suite.result_of(name, parameters)
    result = suite.result_of("affinity", AffinityParameters(candidates={"classification": tuple(tasks)}), names)
    return AffinityResult.model_validate(result), time.monotonic() - began


def losses(suite: OpenSuite, tasks: Sequence[str], *, steps: int, seed: int, name: str) -> dict[str, float]:
    """The validation losses at the end of a run on ``tasks``, with equal shares of the rows."""
    run = optimisation(batch_rows=24, learning_rate=2e-3, max_length=MAX_LENGTH, seed=seed, warmup_steps=steps // 10)
    parameters = train_parameters("high-resource").model_copy(
        update={
            "tasks": tuple(suite.definitions[task] for task in tasks),
            "probabilities": {task: 1 / len(tasks) for task in tasks},
            "max_steps": steps,
            "optimisation": run.model_copy(update={"min_steps": steps, "eval_every": steps}),
            "tuning": Tuning(method="Full"),
        }
    )
    result = TrainResult.model_validate(suite.result_of(f"high-resource/{name}", parameters))
    return {task: point.loss for task, point in result.curve[-1].tasks.items()}


def effects(suite: OpenSuite, tasks: Sequence[str], *, steps: int, seed: int) -> NDArray[np.float64]:
    """(left out, on): by how much the loss of a task is higher without another; NaN on the diagonal."""
    together = losses(suite, tasks, steps=steps, seed=seed, name=f"all-{seed}")
    found = np.full((len(tasks), len(tasks)), np.nan)
    for row, out in enumerate(tasks):
        others = [task for task in tasks if task != out]
        fewer = round(steps * len(others) / len(tasks))
        apart = losses(suite, others, steps=fewer, seed=seed, name=f"{out}-{seed}")
        for column, task in enumerate(tasks):
            if task != out:
                found[row, column] = apart[task] - together[task]
        print(f"  seed {seed}: without {out} done", file=sys.stderr, flush=True)
    return found


def rank_correlation(
    first: NDArray[np.float64], second: NDArray[np.float64], pairs: Sequence[tuple[int, int]]
) -> tuple[float, float, float]:
    """Spearman's ρ over ordered pairs, and its 95 % interval: unordered ``pairs`` drawn with replacement."""

    def rho(chosen: Sequence[tuple[int, int]]) -> float:
        both = [index for i, j in chosen for index in ((i, j), (j, i))]
        left, right = ([table[index] for index in both] for table in (first, second))
        return float(stats.spearmanr(left, right).statistic)

    generator = np.random.default_rng(17)
    draws = (generator.integers(0, len(pairs), len(pairs)) for _ in range(REPLICATES))
    replicates = [rho([pairs[index] for index in draw]) for draw in draws]
    low, high = np.nanquantile(replicates, (0.025, 0.975))
    return rho(pairs), float(low), float(high)


def main() -> None:
    """Print both matrices and how well they agree."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    if not (options.data / TASKS[0] / "task.yaml").is_file():
        raise SystemExit(f"skipped: {options.data} has no {TASKS[0]}/task.yaml; give the folder of the open suite")
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as root:
        suite = OpenSuite(Path(root), options.data, TASKS, train=1500, others=150)
        base = base_parameters(
            uri="builtin://tiny",
            tasks=tuple(suite.definitions[task] for task in TASKS),
            optimisation=optimisation(batch_rows=24, learning_rate=2e-3, max_length=MAX_LENGTH),
            pretraining=pretraining(maxSteps=60),
        )
        suite.result_of("base", base)
        found, seconds = estimate(suite, suite.names, options.rows)
        measured = [effects(suite, TASKS, steps=options.steps, seed=17 + index) for index in range(options.seeds)]
    report(found, measured, seconds)
    print(f"\nGradients and groups: {seconds:.0f} s; all: {(time.monotonic() - began) / 60:.1f} min.")


def report(found: AffinityResult, measured: Sequence[NDArray[np.float64]], seconds: float) -> None:
    """Print the tables."""
    del seconds
    print("\nAffinity, with half of its interval:\n")
    print("| | " + " | ".join(found.tasks[:-1]) + " |\n|" + "---|" * len(found.tasks))
    for row, task in enumerate(found.tasks[1:], 1):
        cells = [f"{v:+.2f} ± {h:.2f}" for v, h in zip(found.affinity[row], found.half_width[row], strict=True)]
        print(f"| {task} | " + " | ".join([*cells, *[""] * (len(found.tasks) - 1 - row)]) + " |")
    print("\nGroups: " + "; ".join(", ".join(tasks) for tasks in found.groups.values()))
    mean = np.mean(measured, axis=0)
    print("\nLoss of the column's task without the row's minus with it, mean over seeds:\n")
    print("| | " + " | ".join(TASKS) + " |\n|" + "---|" * (len(TASKS) + 1))
    for row, task in enumerate(TASKS):
        cells = ["" if np.isnan(value) else f"{value:+.3f}" for value in mean[row]]
        print(f"| {task} | " + " | ".join(cells) + " |")
    count = len(TASKS)
    values = np.array([[found.between(a, b)[0] if a != b else 1.0 for b in TASKS] for a in TASKS])
    pairs = list(itertools.combinations(range(count), 2))
    print(f"\n| Spearman's ρ over the {count * (count - 1)} ordered pairs | ρ | 95 % interval |\n|---|---|---|")
    lines = {"affinity and measured effect, mean over seeds": (values, mean)}
    if len(measured) > 1:
        lines["measured effect, one seed and another"] = (measured[0], measured[1])
    for name, (left, right) in lines.items():
        rho, low, high = rank_correlation(left, right, pairs)
        print(f"| {name} | {rho:.2f} | {low:.2f} to {high:.2f} |")


if __name__ == "__main__":
    main()
