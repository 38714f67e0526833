"""LoRA, LoRA of more rank, CGC-LoRA and its relatives on one suite of public tasks, with equal rows and batches.

    python tests/benchmarks/tuning_methods.py --data DIR [--workdir DIR] [--seeds 3] [--steps 600] [--arms NAME ...]

DIR is that of ``open_suite.py``; its classification tasks are one group. The learning rate of each arm is chosen from
one grid, by the mean validation score with the first seed; main arms are repeated with the other seeds. Scores are
those of the engine that serves. Stages that have run are not run again: call it again to go on, and on a quiet
machine for the seconds of a step. Prints a page in Markdown (also to ``--out``). Two processes of one thread train at a
time.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from open_suite import sample, task_entry
from scipy import stats
from stage_runs import run_stage
from tuning_arms import Arm, Run, Setting, Trained, answer, arms, mean_score, task_score, train
from tuning_steps import step_seconds

from multitask_api.resource.sources import Pretraining
from multitask_api.resource.tasks import TaskSpec
from multitask_api.stage_io.parameters import BaseParameters, Optimisation, PrepareParameters, TaskDefinition
from multitask_trainer.data.rows import read_rows
from multitask_trainer.evaluation.answers import Answer
from multitask_trainer.evaluation.interval import bootstrap
from multitask_trainer.evaluation.metrics import statistics as row_statistics

TASKS = (
    "clinc150_intent",
    "tweet_emoji",
    "tweet_offensive",
    "tweet_emotion",
    "tweet_irony",
    "sst5",
    "snli_small",
)
FIRST_SEED = 17


@dataclass(frozen=True)
class Scored:
    """An arm at its chosen learning rate: one entry a seed, the first seed first."""

    arm: Arm
    rate: float
    rates: Mapping[float, float]
    """Learning rate → mean validation score with the first seed."""
    trained: Sequence[Trained]
    answers: Sequence[Mapping[str, Sequence[Answer]]]
    served_bytes: int
    seconds: float
    """In training steps, of all rates and seeds."""


def prepare(options: argparse.Namespace) -> Setting:
    """Rows and base, which all arms share."""
    rows_of = {"train": options.train_rows, "validation": 500, "test": options.test_rows}
    for name in options.tasks:
        sample(options.data / name, options.workdir / "data" / name, rows_of)
    entries = [TaskSpec.model_validate(task_entry(options.workdir / "data", name)) for name in options.tasks]
    definitions = [TaskDefinition.of(entry) for entry in entries]
    inputs = {
        f"prepare/{task.name}": run_stage(
            options.workdir,
            f"prepare/{task.name}",
            PrepareParameters(task=task, data=entry.data, fingerprints={}),
            {},
        )
        for task, entry in zip(definitions, entries, strict=True)
    }
    optimisation = Optimisation(
        batch_rows=32, learning_rate=2e-3, warmup_steps=50, max_length=192, seed=FIRST_SEED, eval_every=250,
        min_steps=0, patience=9, precision="fp32",
    )  # fmt: skip
    base = BaseParameters(
        uri=options.base,
        tasks=tuple(definitions),
        optimisation=optimisation,
        pretraining=Pretraining.model_validate({"tasksText": True, "maxSteps": options.pretraining_steps}),
    )
    rows = {task.name: len(read_rows(inputs[f"prepare/{task.name}"], "train")) for task in definitions}
    return Setting(
        folder=options.workdir,
        tasks=definitions,
        inputs=inputs | {"base": run_stage(options.workdir, "base", base, inputs, threads=2)},
        rows=rows,
        steps=options.steps,
        batch_rows=options.batch_rows,
        validations=6,
    )


def measure(setting: Setting, chosen: Sequence[Arm], options: argparse.Namespace) -> list[Scored]:
    """Train and score every arm; two runs at a time."""
    with concurrent.futures.ThreadPoolExecutor(options.parallel) as pool:
        grid = [Run(arm, rate, FIRST_SEED) for rate in options.rates for arm in chosen]
        first = dict(zip(grid, pool.map(lambda run: train(run, setting), grid), strict=True))
        validation = {
            arm.name: {rate: first[Run(arm, rate, FIRST_SEED)].validation for rate in options.rates} for arm in chosen
        }
        best = {arm.name: max(options.rates, key=lambda rate, arm=arm: validation[arm.name][rate]) for arm in chosen}  # type: ignore[misc]
        repeats = [
            Run(arm, best[arm.name], FIRST_SEED + more)
            for more in range(1, options.seeds)
            for arm in chosen
            if arm.is_main
        ]
        trained = first | dict(zip(repeats, pool.map(lambda run: train(run, setting), repeats), strict=True))
    scored = []
    for arm in chosen:
        runs = [run for run in trained if run.arm == arm and run.rate == best[arm.name]]
        answered = [answer(run, setting, trained[run]) for run in runs]
        scored.append(
            Scored(
                arm,
                best[arm.name],
                validation[arm.name],
                [trained[run] for run in runs],
                [answers for answers, _ in answered],
                answered[0][1],
                sum(each.seconds for run, each in trained.items() if run.arm == arm),
            )
        )
    return scored


def difference(setting: Setting, one: Scored, other: Scored) -> tuple[float, float | None]:
    """``one`` minus ``other``: the mean over tasks of the test score; and half of its 95 % interval, with two seeds.

    Both are compared seed by seed, on the same rows. Rows and seeds have a quantile of their own and their squared
    reaches are added, as in ``evaluation/interval.py``.
    """
    pairs = list(zip(one.answers, other.answers, strict=False))
    means = [mean_score(setting.tasks, first) - mean_score(setting.tasks, second) for first, second in pairs]
    if len(pairs) < 2:
        return means[0], None
    replicates = np.zeros(2000)
    for number, task in enumerate(setting.tasks):
        sources = [
            row_statistics(
                task.metric,
                [item.prediction for item in answers[task.name]],
                [item.gold for item in answers[task.name]],
                task.labels,
                task.language,
            )
            for pair in pairs
            for answers in pair
        ]
        scores = bootstrap(sources, seed=number)
        replicates += (scores[0::2] - scores[1::2]).mean(axis=0) / len(setting.tasks)
    rows = 1.96 * float(replicates.std(ddof=1))
    seeds = float(stats.t.ppf(0.975, len(pairs) - 1)) * statistics.stdev(means) / len(pairs) ** 0.5
    return statistics.mean(means), (rows**2 + seeds**2) ** 0.5


def page(
    setting: Setting,
    scored: Sequence[Scored],
    seconds: Mapping[str, float],
    options: argparse.Namespace,
    command: str,
) -> str:
    """The result as Markdown."""
    plain = next(item for item in scored if item.arm.name == "lora")
    spent = sum(item.seconds for item in scored) / 60
    spent_main = sum(item.seconds for item in scored if item.arm.is_main) / 60
    lines = [
        "# Tuning methods: LoRA, more rank, CGC-LoRA and its relatives",
        "",
        f"    {command}",
        "",
        f"{len(setting.tasks)} classification tasks in one group; base {options.base}. Every arm has",
        f"{setting.steps} steps of {setting.batch_rows} rows. At most {options.train_rows:,} training rows and",
        f"{options.test_rows:,} test rows of a task, drawn with a fixed seed. The steps of all rates and seeds took",
        f"{spent:.0f} minutes of one thread, of the main arms {spent_main:.0f}; these have {options.seeds} seeds.",
        "",
        "Score: the mean over tasks of the metric on the test rows, mean ± SD over seeds. Difference: to LoRA of the",
        "same budget, seed by seed on the same rows, with a 95 % interval from rows and seeds; without one where there",
        f"is one seed. Milliseconds a step: the median of {options.rounds} steps of one thread, all arms in turns on",
        "the same rows. Memory: of the process that trains, resident at most. One LoRA a task chooses a checkpoint for",
        "each task, all other arms one for all tasks.",
        "",
        "| arm | seeds | score | difference to LoRA | trained parameters | ms/step | memory | served beside the base |",
        "|" + " --- |" * 8,
    ]
    for item in scored:
        values = [mean_score(setting.tasks, answers) for answers in item.answers]
        mean, reach = difference(setting, item, plain)
        shown = "–" if item is plain else f"{mean:+.4f}" + (f" ± {reach:.4f}" if reach is not None else "")
        spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
        cells = [
            item.arm.title,
            str(len(values)),
            f"{statistics.mean(values):.4f}{spread}",
            shown,
            f"{item.trained[0].parameters:,}",
            f"{1000 * seconds[item.arm.name]:.0f}" if item.arm.name in seconds else "–",
            f"{max(each.memory for each in item.trained) / 1e6:,.0f} MB",
            f"{item.served_bytes / 1e6:.2f} MB",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "## Tasks: mean test score over seeds", ""]
    lines += [
        "| arm | " + " | ".join(task.name for task in setting.tasks) + " |",
        "|" + " --- |" * (1 + len(setting.tasks)),
    ]
    for item in scored:
        cells = [
            f"{statistics.mean(task_score(task, answers[task.name]) for answers in item.answers):.3f}"
            for task in setting.tasks
        ]
        lines.append(f"| {item.arm.title} | " + " | ".join(cells) + " |")
    lines += ["", "## Learning rates: mean validation score with the first seed; the highest was chosen", ""]
    ends = [item.arm.title for item in scored if item.rate in (options.rates[0], options.rates[-1])]
    if ends:
        lines += [f"At an end of the grid, so that another rate may be better still: {'; '.join(ends)}.", ""]
    lines += ["| arm | " + " | ".join(f"{rate:g}" for rate in options.rates) + " |"]
    lines += ["|" + " --- |" * (1 + len(options.rates))]
    for item in scored:
        cells = [
            f"**{value:.4f}**" if rate == item.rate else f"{value:.4f}" for rate, value in sorted(item.rates.items())
        ]
        lines.append(f"| {item.arm.title} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the tasks")
    parser.add_argument("--workdir", type=Path, default=Path(".mtm/tuning-methods"))
    parser.add_argument("--tasks", nargs="*", default=list(TASKS))
    parser.add_argument("--base", default="builtin://tiny")
    parser.add_argument("--pretraining-steps", type=int, default=250)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--train-rows", type=int, default=4000, help="of a task, at most")
    parser.add_argument("--test-rows", type=int, default=1500, help="of a task, at most")
    parser.add_argument("--batch-rows", type=int, default=32)
    parser.add_argument("--rates", type=float, nargs="*", default=[1e-3, 3e-3, 9e-3])
    parser.add_argument("--seeds", type=int, default=3, help="of the main arms")
    parser.add_argument("--arms", nargs="*", help="names; default: all")
    parser.add_argument("--rounds", type=int, default=20, help="in which steps are timed")
    parser.add_argument("--parallel", type=int, default=2)
    parser.add_argument("--out", type=Path, help="where to write the page as well")
    return parser.parse_args()


def main() -> None:
    options = parse()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    options.workdir = options.workdir.resolve()
    options.rates = sorted(options.rates)
    setting = prepare(options)
    every = arms(len(setting.tasks), options.rank)
    chosen = [arm for arm in every if not options.arms or arm.name in options.arms]
    scored = measure(setting, chosen, options)
    tasks = "" if options.tasks == list(TASKS) else f" --tasks {' '.join(options.tasks)}"
    shown = (
        f"python {Path(sys.argv[0]).as_posix()} --data DIR{tasks} --base {options.base} --rank {options.rank}"
        f" --pretraining-steps {options.pretraining_steps} --steps {options.steps} --batch-rows {options.batch_rows}"
        f" --train-rows {options.train_rows} --test-rows {options.test_rows}"
        f" --rates {' '.join(f'{rate:g}' for rate in options.rates)} --seeds {options.seeds}"
        f"{' --arms ' + ' '.join(options.arms) if options.arms else ''}"
    )
    seconds = step_seconds(chosen, setting, options.rounds)
    text = page(setting, scored, seconds, options, shown)
    print(text)
    if options.out:
        options.out.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
