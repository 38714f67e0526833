"""What the three stages, filtering and CGC-LoRA are worth on a base that knows language, with LoRA.

    python tests/benchmarks/evidence.py --data DIR --base FOLDER [--device cuda] [--minutes 5] [--out PAGE] …

DIR is that of ``open_suite.py``; the rows that are used are drawn from it with a fixed seed. The baselines of all tasks
are trained first, then the arms beside each other: they share rows, base and baselines, and all get exactly as many
steps as the three stages. An arm is repeated with ``--seeds`` mixture seeds.

After ``--minutes`` no arm begins, and after one and a half minutes more what still runs is interrupted. A page of what
is finished is printed in any case (also to ``--out``). Call it again with the same ``--workdir`` to go on.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_suite
from open_suite import Arm, arm, mean_sd

from multitask_api.stage_io.manifest import Manifest
from multitask_api.stage_io.results import FilterResult, TrainResult
from multitask_operator.study.arms import NO_EARLY_STOP

FIRST_SEED = 17
GRACE_MINUTES = 1.5
ARMS = ("three-stage", "naive", "cgc", "filtered")
TITLES = {
    "three-stage": "three stages: groups by type, stage 2, τ = 2",
    "naive": "naive: one mixture, τ = 1, no stage 2",
    "cgc": "1 + N: three stages with CGC-LoRA",
    "filtered": "filtered: groups by type, τ = 1, no stage 2",
}


def resource(options: argparse.Namespace, tasks: list[dict[str, Any]]) -> dict[str, Any]:
    """The three-stage file; the other arms are edits of it."""
    return {
        "apiVersion": "multitask.dev/v1alpha1",
        "kind": "MultiTaskModel",
        "metadata": {"name": "evidence"},
        "spec": {
            "baseModel": {"uri": options.base},
            **({"pretraining": {"tasksText": True, "maxSteps": 20}} if options.base.startswith("builtin://") else {}),
            "tasks": tasks,
            "filtering": {"strategy": "Type"},
            "stages": {
                "baseline": {"maxSteps": options.steps, "seeds": options.baseline_seeds},
                "highResource": {
                    "maxSteps": options.steps,
                    "minSteps": NO_EARLY_STOP,
                    "minSaturationSteps": options.min_saturation_steps,
                },
                "mixture": {"temperature": 2.0, "minSteps": NO_EARLY_STOP},
            },
            "tuning": {"method": "LoRA", "rank": options.rank, "alpha": 2 * options.rank},
            "training": {
                "batchRows": options.batch_rows,
                "learningRate": options.rate,
                "warmupSteps": max(1, options.steps // 12),
                "maxLength": options.max_length,
                "seed": FIRST_SEED,
                "evalEvery": max(1, options.steps // 2),
                "minSteps": NO_EARLY_STOP,
                "precision": "fp32" if options.device == "cpu" else "bf16",
                "gpusPerNode": 0 if options.device == "cpu" else 1,
                "maxParallelJobs": options.jobs,
            },
        },
    }


@dataclass(frozen=True)
class Steps:
    """Of the three stages, over all groups; ``alone``: of the baselines that answer a group by themselves."""

    trained: int
    alone: int


def edited(base: dict[str, Any], name: str, seed: int, steps: Steps) -> Arm:
    """An arm with a mixture seed."""
    if name == "naive":
        item = arm(base, name, seed, {"temperature": 1.0, "maxSteps": steps.trained}, naive=True)
    else:
        item = arm(base, name, seed, {"temperature": 1.0} if name == "filtered" else {})
    spec = item.document["spec"]
    if name == "filtered":
        spec["stages"] |= {"highResource": {"enabled": False}, "totalSteps": steps.trained + steps.alone}
    if name == "cgc":
        spec["tuning"]["method"] = "CGCLoRA"
    return item


def manifests(workdir: Path, kind: str) -> list[Manifest]:
    """Those of the finished stages of a kind, in the order of their names."""
    found = sorted((workdir / "stages" / kind).rglob("manifest.json"))
    return [Manifest.model_validate_json(path.read_text("utf-8")) for path in found]


def steps_of_plan(workdir: Path, limit: int) -> Steps | None:
    """Steps of stages 2 and 3 over all groups; None before the baselines are trained and the groups planned.

    ``limit``: of stage 2 of a group. A group of one task is served by its baseline and trains nothing more.
    """
    planned = manifests(workdir, "filter")
    if not planned:
        return None
    every = FilterResult.model_validate(planned[0].result).groups
    groups = [group for group in every if len(group.tasks) > 1]
    stage2 = [
        limit if group.high_resource_steps is None else group.high_resource_steps
        for group in groups
        if group.high_resource
    ]
    alone = sum(group.mixture_steps for group in every if len(group.tasks) == 1)
    return Steps(sum(stage2) + sum(group.mixture_steps for group in groups), alone)


def measure(options: argparse.Namespace, base: dict[str, Any]) -> tuple[dict[str, list[dict[str, Any]]], list[str]]:
    """Run the arms; the reports of those that finished, and what is missing."""
    root: Path = options.workdir
    begun = time.monotonic()
    last_start, end = begun + 60 * options.minutes, begun + 60 * (options.minutes + GRACE_MINUTES)
    seeds = [FIRST_SEED + more for more in range(options.seeds)]
    first = edited(base, "three-stage", seeds[0], Steps(0, 0))
    missing: list[str] = []

    def attempt(name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
        if time.monotonic() > last_start:
            missing.append(f"{name}: no time was left to begin it")
            return None
        try:
            return work()
        except (SystemExit, OSError, ValueError) as error:
            missing.append(str(error))
            return None

    def go(item: Arm, shared: Path | None) -> dict[str, Any] | None:
        return attempt(
            item.folder,
            lambda: open_suite.run(item, root, shared, serve=False, device=options.device, deadline=end),
        )

    running: dict[tuple[str, int], concurrent.futures.Future[dict[str, Any] | None]] = {}
    pool = concurrent.futures.ThreadPoolExecutor(options.parallel)
    try:
        begin = running["three-stage", seeds[0]] = pool.submit(go, first, None)
        while (steps := steps_of_plan(root / first.folder, options.steps)) is None and not begin.done():
            time.sleep(0.2)
        for name, seed in [(name, seed) for seed in seeds for name in ARMS if name in options.arms]:
            if steps is not None and (name, seed) not in running:
                item = edited(base, name, seed, steps)
                running[name, seed] = pool.submit(go, item, root / first.folder)
        concurrent.futures.wait(running.values())
    except KeyboardInterrupt:  # it also went to the runs, which stop
        missing.append("this call was interrupted")
    pool.shutdown(cancel_futures=True)
    finished = [(name, future.result()) for (name, _), future in running.items() if not future.cancelled()]
    reports = {name: [report for key, report in finished if key == name and report is not None] for name in ARMS}
    return {name: found for name, found in reports.items() if found}, sorted(missing)


def baseline_table(workdir: Path) -> list[str]:
    """One line a task: the test scores of its single-task models, and what they cost."""
    scores: dict[str, list[float]] = {}
    rows: dict[str, int] = {}
    for manifest in manifests(workdir, "baseline"):
        task = manifest.stage.split("/")[1]
        result = TrainResult.model_validate(manifest.result)
        rows[task] = rows.get(task, 0) + sum(result.rows_given.values())
        scores.setdefault(task, []).extend([] if result.test_score is None else [result.test_score])
    lines = ["| task | seeds | test score | rows trained |", "| --- | --- | --- | --- |"]
    return lines + [f"| {task} | {len(all_)} | {mean_sd(all_)} | {rows[task]:,} |" for task, all_ in scores.items()]


def conclusion(arms: dict[str, list[dict[str, Any]]]) -> str:
    """Each arm against the naive one; what one base, one suite and few seeds can support, and no more."""
    if "naive" not in arms or len(arms) < 2:
        return "No comparison: the naive arm or the others are not finished."
    if min(len(reports) for reports in arms.values()) < 2:
        return "There is an arm with one seed: a difference says nothing yet."
    rows = {name: open_suite.total(reports[0], "Rows") for name, reports in arms.items()}
    equal = [name for name in arms if name != "naive" and rows[name] == rows["naive"]]
    if not equal:
        return "No comparison: no arm had as many rows as the naive one."
    judged = open_suite.judged_tasks(arms)
    said = " ".join(open_suite.conclusion({name: arms[name], "naive": arms["naive"]}, judged) for name in equal)
    return f"{said} This is one base, one suite and one budget, and says nothing about others."


def page(options: argparse.Namespace, arms: dict[str, list[dict[str, Any]]], missing: list[str], minutes: float) -> str:
    """What is finished, as Markdown."""
    first = options.workdir / f"three-stage-{FIRST_SEED}"
    lines = ["# Evidence: three stages, filtering and CGC-LoRA on one base", "", f"    {_shown(options)}", ""]
    lines += [f"{_device(options.device)}; LoRA of rank {options.rank}, {options.batch_rows} rows a step, learning"]
    lines += [f"rate {options.rate:g}. This call took {minutes:.1f} minutes, without what storage had.", ""]
    if missing:
        lines += ["**Not finished**, and not in the tables:", "", *(f"- {item}" for item in missing), ""]
    if arms:
        lines += ["## Arms: ratio to the single-task baselines, mean ± SD over mixture seeds", ""]
        lines += [f"- {TITLES[name]}" for name in arms]
        lines += ["", *open_suite.arm_table(arms), "", conclusion(arms), ""]
        lines += ["## Tasks", "", *open_suite.task_table(arms), ""]
    lines += ["## Single-task baselines, mean ± SD over their seeds", "", *baseline_table(first), ""]
    if "three-stage" in arms:
        lines += ["## Verdicts of the first three-stage run", "", *open_suite.verdict_table(arms["three-stage"][0]), ""]
    return "\n".join(lines)


def _device(name: str) -> str:
    if name == "cpu":
        return "CPU"
    import torch

    return torch.cuda.get_device_name()


def _shown(options: argparse.Namespace) -> str:
    """The command, with every option that is not the default; DIR, FOLDER and where results go left out."""
    default = vars(parse(["--data", "DIR", "--base", "FOLDER"]))
    places = {"data", "base", "workdir", "out", "json", "minutes"}
    changed = {name: value for name, value in vars(options).items() if name not in places and value != default[name]}
    words = [
        f"--{name.replace('_', '-')} {' '.join(map(str, value)) if isinstance(value, list) else value}"
        for name, value in changed.items()
    ]
    base = options.base if "://" in options.base else Path(options.base).name
    return " ".join([f"python {Path(sys.argv[0]).as_posix()} --data DIR --base {base}", *words])


def prepare(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The entries of the tasks, with the rows that are drawn for them."""
    entries = []
    for name in options.tasks:
        target = options.workdir / "data" / name
        if not (target / "test.jsonl.gz").exists():
            generation = open_suite.task_entry(options.data, name)["type"] == "Generation"
            test = min(options.test_rows, options.generation_test_rows) if generation else options.test_rows
            validation = min(options.validation_rows, test)
            rows = {"train": options.train_rows, "validation": validation, "test": test}
            open_suite.sample(options.data / name, target, rows)
        entries.append(open_suite.task_entry(options.workdir / "data", name))
    return entries


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the tasks")
    parser.add_argument("--base", required=True, help="folder of the base, or its URI")
    parser.add_argument("--workdir", type=Path, default=Path(".mtm/evidence"))
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--tasks", nargs="*", default=list(open_suite.PROMPTS))
    parser.add_argument("--arms", nargs="*", choices=ARMS, default=list(ARMS))
    parser.add_argument("--minutes", type=float, default=60, help="after which no further arm begins")
    parser.add_argument("--seeds", type=int, default=2, help="mixture seeds an arm")
    parser.add_argument("--baseline-seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=100, help="of each baseline; limit of stage 2")
    parser.add_argument(
        "--min-saturation-steps", type=int, help="of a task in stage 2; default: what the product takes"
    )
    parser.add_argument("--batch-rows", type=int, default=64)
    parser.add_argument("--rank", type=int, default=24, help="divisible by 1 + the tasks of each group, for CGC-LoRA")
    parser.add_argument("--rate", type=float, default=5e-4, help="learning rate")
    parser.add_argument("--max-length", type=int, default=192)
    parser.add_argument("--train-rows", type=int, default=8000, help="of a task, at most")
    parser.add_argument("--validation-rows", type=int, default=200, help="of a task, at most")
    parser.add_argument("--test-rows", type=int, default=1000, help="of a task, at most")
    parser.add_argument("--generation-test-rows", type=int, default=400, help="of a task that writes text, at most")
    parser.add_argument("--jobs", type=int, default=7, help="stage processes of an arm at a time; baselines need them")
    parser.add_argument("--parallel", type=int, default=4, help="arms at a time, those of the first seed first")
    parser.add_argument("--out", type=Path, help="where to write the page as well")
    parser.add_argument("--json", type=Path, help="where to write the arms' reports")
    return parser.parse_args(arguments)


def main() -> None:
    options = parse()
    begun = time.monotonic()
    options.data, options.workdir = options.data.resolve(), options.workdir.resolve()
    options.workdir.mkdir(parents=True, exist_ok=True)
    arms, missing = measure(options, resource(options, prepare(options)))
    if options.json:
        options.json.write_text(json.dumps(arms), "utf-8")
    text = page(options, arms, missing, (time.monotonic() - begun) / 60)
    print(text)
    if options.out:
        options.out.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
