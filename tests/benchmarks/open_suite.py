"""Nine public text tasks, one server: the three stages against the naive mixture, on real data.

    python tests/benchmarks/open_suite.py --data DIR [--workdir DIR] [--seeds 3] [--steps 1500]

DIR holds one folder a task: train/validation/test.jsonl.gz and task.yaml. The program writes the resource files, runs
them with ``mtm run`` and prints a page in Markdown (also to ``--out``).

The two arms share base, baselines and everything else but the recipe. Each gets the same total training rows over
stages 2 and 3 and over groups, the same batch size, schedule and selection rule, no early stopping; an arm is repeated
with ``--seeds`` mixture seeds. The naive arm is one mixture of all tasks with p_i ∝ n_i and no stage 2. It chooses from
more checkpoints, because all its rows are drawn in stage 3; the page gives the numbers.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import gzip
import json
import math
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from multitask_operator.study.arms import NO_EARLY_STOP
from multitask_operator.study.statistics import student_quantile

TEXT = "{text}\n"
PROMPTS = {
    "clinc150_intent": TEXT + "Intent:",
    "tweet_emoji": TEXT + "Emoji:",
    "tweet_offensive": TEXT + "Offensive or not:",
    "tweet_emotion": TEXT + "Emotion:",
    "tweet_irony": TEXT + "Irony or not:",
    "sst5": TEXT + "Sentiment:",
    "snli_small": "{text}\nSecond: {text_pair}\nRelation:",
    "e2e_nlg": TEXT + "In words:",
    "restaurant8k_slots": TEXT + "Slots:",
}
METRICS = {
    "accuracy": "Accuracy",
    "macro_f1": "MacroF1",
    "matthews": "MatthewsCorrelation",
    "exact_match": "ExactMatch",
    "rouge_l": "RougeL",
}
TAXONOMIES = {"binary": "Binary", "ordinal": "Ordinal", "multi_class": "MultiClass", "sentence_pair": "MultiClass"}


@dataclass(frozen=True)
class Arm:
    """One recipe with one mixture seed."""

    name: str
    seed: int
    document: dict[str, Any]

    @property
    def folder(self) -> str:
        return f"{self.name}-{self.seed}"


def task_entry(data: Path, name: str) -> dict[str, Any]:
    """The resource's entry of one task, from its folder."""
    about = yaml.safe_load((data / name / "task.yaml").read_text("utf-8"))
    generation = about["type"] in ("generation", "span_extraction")
    entry: dict[str, Any] = {
        "name": name.replace("_", "-"),
        "type": "Generation" if generation else "Classification",
        "prompt": PROMPTS[name],
        "metric": METRICS[about["metric"]],
        "data": {split: {"uri": str(data / name / f"{split}.jsonl.gz")} for split in ("train", "validation", "test")},
    }
    if generation:
        entry["generation"] = {"maxNewTokens": 64}
    else:
        entry["labels"] = [str(label) for label in about["labels"]]
        entry["taxonomy"] = TAXONOMIES[about["type"]]
    return entry


def resource(options: argparse.Namespace, tasks: list[dict[str, Any]]) -> dict[str, Any]:
    """The three-stage file; the other arms are edits of it."""
    return {
        "apiVersion": "multitask.dev/v1alpha1",
        "kind": "MultiTaskModel",
        "metadata": {"name": "open-suite"},
        "spec": {
            "baseModel": {"uri": options.base},
            "pretraining": {"tasksText": True, "maxSteps": options.pretraining_steps},
            "tasks": tasks,
            "filtering": {"strategy": "Type"},
            "stages": {
                "baseline": {"maxSteps": options.steps, "seeds": options.baseline_seeds},
                "highResource": {"maxSteps": options.steps // 2, "minSteps": NO_EARLY_STOP},
                "mixture": {"temperature": 2.0, "minSteps": NO_EARLY_STOP},
            },
            "tuning": {"method": "Full"},
            "training": {
                "batchRows": 32,
                "learningRate": 2e-3,
                "warmupSteps": 50,
                "maxLength": 192,
                "seed": 17,
                "evalEvery": options.eval_every,
                "minSteps": 300,
                "patience": 4,
                "precision": "fp32",
                "gpusPerNode": 0,
            },
        },
    }


def arm(base: dict[str, Any], name: str, seed: int, mixture: dict[str, Any], *, naive: bool = False) -> Arm:
    """An edit of ``base``: a mixture seed, and for the naive arm one group without stage 2 and with τ = 1."""
    document: dict[str, Any] = json.loads(json.dumps(base))
    spec = document["spec"]
    spec["stages"]["mixture"] |= {"seed": seed} | mixture
    spec["stages"]["highResource"]["seed"] = seed
    if naive:
        spec["filtering"] = {"strategy": "None"}
        spec["stages"]["highResource"] = {"enabled": False}
    return Arm(name, seed, document)


def run(
    arm: Arm,
    root: Path,
    shared: Path | None,
    *,
    serve: bool,
    device: str = "auto",
    deadline: float = math.inf,
) -> dict[str, Any]:
    """Run one arm in a folder of its own; finished stages that ``shared`` holds are linked in, not run again.

    Past ``deadline``, a reading of `time.monotonic`, it is interrupted. Exits with a message if it does not finish.
    """
    workdir = root / arm.folder
    workdir.mkdir(parents=True, exist_ok=True)
    if shared is not None and not (workdir / "stages").exists():
        link_finished(shared / "stages", workdir / "stages")
    file = root / f"{arm.folder}.yaml"
    file.write_text(yaml.safe_dump(arm.document, sort_keys=False), "utf-8")
    command = [sys.executable, "-m", "multitask_operator", "run", str(file), "--workdir", str(workdir)]
    command += ["--device", device] + ([] if serve else ["--no-serve"])
    with (root / f"{arm.folder}.log").open("a", encoding="utf-8") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.2)
        if process.poll() is None:
            process.send_signal(signal.SIGINT)  # it stops its stages, which write a checkpoint
        process.wait()
    if process.returncode:
        raise SystemExit(f"{arm.folder}: mtm run ended with {process.returncode}; see {root / arm.folder}.log")
    report: dict[str, Any] = json.loads((workdir / "report.json").read_text("utf-8"))
    return report


def link_finished(source: Path, target: Path) -> None:
    """Hard links to the artifacts below ``source`` that are finished."""
    for manifest in sorted(source.rglob("manifest.json")):
        copy = target / manifest.parent.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(manifest.parent, copy, copy_function=os.link, symlinks=True)


def sample(source: Path, target: Path, rows: Mapping[str, int]) -> None:
    """Copy a task's folder with at most so many rows a split, drawn with a fixed seed."""
    target.mkdir(parents=True, exist_ok=True)
    shutil.copy(source / "task.yaml", target / "task.yaml")
    for split, count in rows.items():
        with gzip.open(source / f"{split}.jsonl.gz", "rt", encoding="utf-8") as file:
            lines = file.readlines()
        drawn = random.Random(f"{source.name}/{split}").sample(lines, min(count, len(lines)))
        with (target / f"{split}.jsonl.gz").open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", mtime=0) as packed:
            packed.write("".join(drawn).encode())


def total(report: dict[str, Any], what: str, task: str | None = None) -> int:
    """Training ``Rows`` or ``Tokens`` of stages 2 and 3, over all groups; of one task or of all."""
    given = [group[f"{stage}{what}"] for group in report["groups"] for stage in ("stage2", "stage3")]
    return sum(count for each in given for name, count in each.items() if task in (None, name))


def mean_sd(values: list[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.3f}" if values else "–"
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}"


def task_table(arms: dict[str, list[dict[str, Any]]]) -> list[str]:
    """One line a task: baseline, and score and ratio of each arm."""
    names = list(arms)
    lines = ["| task | metric | single-task | " + " | ".join(f"{name}: score | ratio" for name in names) + " |"]
    lines.append("|" + " --- |" * (3 + 2 * len(names)))
    for index, task in enumerate(arms[names[0]][0]["tasks"]):
        cells = [task["name"], task["metric"], f"{task['baseline']:.3f}"]
        for name in names:
            rows = [report["tasks"][index] for report in arms[name]]
            cells += [
                mean_sd([row["score"] for row in rows]),
                mean_sd([row["ratio"] for row in rows if row.get("ratio") is not None]),
            ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def judged_tasks(arms: dict[str, list[dict[str, Any]]]) -> set[str]:
    """The tasks that could be judged in every run of every arm: arms are compared on the same tasks."""
    judged = [
        {task["name"] for task in report["tasks"] if task.get("verdict") in ("Qualified", "NotQualified")}
        for reports in arms.values()
        for report in reports
    ]
    return set.intersection(*judged)


def mean_ratios(reports: list[dict[str, Any]], tasks: set[str]) -> list[float]:
    """The mean ratio over ``tasks`` of each run; a ratio of 0 counts, one that could not be had does not."""
    ratios_of_tasks = [
        [task["ratio"] for task in report["tasks"] if task["name"] in tasks and task.get("ratio") is not None]
        for report in reports
    ]
    return [statistics.mean(ratios) for ratios in ratios_of_tasks if ratios]


def arm_table(arms: dict[str, list[dict[str, Any]]]) -> list[str]:
    """One line an arm: the outcome over its seeds, and what it cost."""
    every_task = {task["name"] for task in arms[next(iter(arms))][0]["tasks"]}
    judged_task = judged_tasks(arms)
    head = f"mean ratio over the {len(judged_task)} tasks judged in every run"
    lines = [
        f"| arm | {head} | all tasks | qualified (each seed) | rows trained | tokens trained | checkpoints |",
        "|" + " --- |" * 7,
    ]
    for name, reports in arms.items():
        judged, every = mean_ratios(reports, judged_task), mean_ratios(reports, every_task)
        qualified = ", ".join(f"{report['qualified']}/{report['total']}" for report in reports)
        rows, tokens = (", ".join(f"{total(report, what):,}" for report in reports) for what in ("Rows", "Tokens"))
        candidates = ", ".join(_candidates(report) for report in reports)
        lines.append(
            f"| {name} | {mean_sd(judged)} | {mean_sd(every)} | {qualified} | {rows} | {tokens} | {candidates} |"
        )
    return lines


def conclusion(arms: dict[str, list[dict[str, Any]]], judged: set[str] | None = None) -> str:
    """The difference of the two arms' mean ratios over seeds, against the noise that the seeds show.

    ``judged``: over these tasks; by default over those that were judged in every run of both.
    """
    names = list(arms)
    judged = judged_tasks(arms) if judged is None else judged
    first, second = (mean_ratios(arms[name], judged) for name in names)
    if min(len(first), len(second)) < 2:
        return "One seed an arm: a difference says nothing."
    difference = statistics.mean(first) - statistics.mean(second)
    error = (statistics.variance(first) / len(first) + statistics.variance(second) / len(second)) ** 0.5
    # Welch's t at 95 % with the smaller arm's degrees of freedom: the cautious choice.
    limit = student_quantile(0.975, min(len(first), len(second)) - 1) * error
    verdict = "more than the seeds vary" if abs(difference) > limit else "within what the seeds vary"
    return (
        f"{names[0]} minus {names[1]}, over the {len(judged)} tasks judged in every run:"
        f" {difference:+.3f} ± {limit:.3f} (95 %, {len(first)} and {len(second)} seeds), {verdict}."
    )


def _candidates(report: dict[str, Any]) -> str:
    """Validations of each group's mixture, as in 40 + 12: the checkpoints that one is chosen from."""
    return " + ".join(str(len(stage["curve"])) for stage in report["stages"] if stage["name"].startswith("mixture/"))


def verdict_table(report: dict[str, Any]) -> list[str]:
    """The qualification matrix of the first three-stage run, as a user of the product sees it."""
    lines = ["| task | group | baseline | score | ratio | interval | verdict | served by |", "|" + " --- |" * 8]
    for task in report["tasks"]:
        low, high = task.get("interval") or (None, None)
        interval = f"{low:.3f} – {high:.3f}" if low is not None else "–"
        ratio = f"{task['ratio']:.3f}" if task.get("ratio") is not None else "–"
        cells = [task["name"], task["group"], f"{task['baseline']:.3f}", f"{task['score']:.3f}", ratio]
        cells += [interval, task["verdict"], task.get("servedBy") or "–"]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def page(arms: dict[str, list[dict[str, Any]]], command: str, minutes: float) -> str:
    """The whole result as Markdown."""
    first = next(iter(arms.values()))[0]
    serving = first.get("serving") or {}
    lines = ["# Open suite: three stages against a naive mixture", "", f"    {command}", ""]
    spent = stage_seconds([report for reports in arms.values() for report in reports]) / 60
    lines += [f"{spent:.0f} minutes in stages, two at a time; this call {minutes:.0f}, without what storage had."]
    lines += [
        "",
        "Left out: rte, cola and stance_climate, which a base of this size cannot judge, and dialogsum_small,",
    ]
    lines += ["with 488 training dialogues to learn summaries from."]
    lines += ["", f"Revision `{first['revision']}`.", "", "## One server for all of them", ""]
    lines += [
        f"Qualified {first['qualified']}/{first['total']}, confirmed {first['confirmed']}. The first three-stage run;"
    ]
    lines += ["its intervals come from test rows alone where there is one baseline seed.", ""]
    lines += verdict_table(first)
    if serving:
        lines += [
            "",
            "Served against evaluated answers: "
            + ", ".join(f"{k} {v:,}" for k, v in serving.items() if isinstance(v, int))
            + ".",
        ]
    lines += ["", "## Arms, mean ± SD over mixture seeds", "", *arm_table(arms), "", conclusion(arms), ""]
    lines += [*task_table(arms), ""]
    lines += ["## What a task was given in stages 2 + 3 (first seed)", ""]
    lines += [
        "| task | " + " | ".join(f"{name}: rows | tokens" for name in arms) + " |",
        "|" + " --- |" * (1 + 2 * len(arms)),
    ]
    for task in first["tasks"]:
        cells = [
            f"{total(reports[0], what, task['name']):,}" for reports in arms.values() for what in ("Rows", "Tokens")
        ]
        lines.append(f"| {task['name']} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def stage_seconds(reports: list[dict[str, Any]]) -> float:
    """Seconds of all stages of all arms, each stage counted once."""
    seconds = {(s["name"], s.get("digest")): s["seconds"] for report in reports for s in report["stages"]}
    return float(sum(seconds.values()))


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the tasks")
    parser.add_argument("--workdir", type=Path, default=Path(".mtm/open-suite"))
    parser.add_argument("--tasks", nargs="*", default=list(PROMPTS))
    parser.add_argument("--base", default="builtin://tiny")
    parser.add_argument("--seeds", type=int, default=3, help="mixture seeds an arm")
    parser.add_argument("--baseline-seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=1500, help="limit of each baseline; stage 2 gets half")
    parser.add_argument("--pretraining-steps", type=int, default=250)
    parser.add_argument("--eval-every", type=int, default=150)
    parser.add_argument("--parallel", type=int, default=2, help="arms that run at the same time")
    parser.add_argument("--out", type=Path, help="where to write the page as well")
    return parser.parse_args()


def main() -> None:
    given = options()
    begun = time.monotonic()
    data = given.data.resolve()
    root = given.workdir.resolve()
    root.mkdir(parents=True, exist_ok=True)
    base = resource(given, [task_entry(data, name) for name in given.tasks])
    seeds = [17 + index for index in range(given.seeds)]
    first = run(arm(base, "three-stage", seeds[0], {}), root, None, serve=True)
    rows = total(first, "Rows")
    naive = {"temperature": 1.0, "maxSteps": rows // 32}
    planned = [arm(base, "three-stage", seed, {}) for seed in seeds[1:]]
    planned += [arm(base, "naive", seed, naive, naive=True) for seed in seeds]
    shared = root / f"three-stage-{seeds[0]}"
    with concurrent.futures.ThreadPoolExecutor(given.parallel) as pool:
        reports = list(pool.map(lambda item: run(item, root, shared, serve=False), planned))
    arms: dict[str, list[dict[str, Any]]] = {"three-stage": [first], "naive": []}
    for item, report in zip(planned, reports, strict=True):
        arms[item.name].append(report)
    shown = " ".join([Path(sys.argv[0]).as_posix(), "--data DIR", *(_shown(given))])
    text = page(arms, f"python {shown}", (time.monotonic() - begun) / 60)
    print(text)
    if given.out:
        given.out.write_text(text, "utf-8")


def _shown(given: argparse.Namespace) -> list[str]:
    kept = ("base", "seeds", "baseline_seeds", "steps", "pretraining_steps", "eval_every")
    return [f"--{name.replace('_', '-')} {getattr(given, name)}" for name in kept]


if __name__ == "__main__":
    main()
