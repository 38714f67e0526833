"""Whether a space before a field is better tokenised with the field's text or with the template: single-task scores.

    python tests/benchmarks/seams.py --data DIR [--tasks snli_small] [--steps 300] [--seeds 2] [--workdir DIR]

DIR is that of ``open_suite.py``. Of its prompts, that of ``snli_small`` has a space before a field; other tasks get
``Text: {text}`` in place of ``{text}``, so that they have one too. Each task has one base, whose prompt format is
written twice, and one single-task model a seam and seed. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

from open_suite import task_entry
from stage_runs import run_stage

from multitask_api.bundle import PromptFormat
from multitask_api.resource.tasks import TaskSpec
from multitask_api.resource.tuning import Tuning
from multitask_api.stage_io.manifest import Manifest
from multitask_api.stage_io.parameters import (
    BaseParameters,
    Optimisation,
    PrepareParameters,
    TaskDefinition,
    TrainParameters,
)
from multitask_api.stage_io.results import TrainResult
from multitask_trainer.base_model.loading import read_prompt_format, write_prompt_format
from multitask_trainer.storage.files import file_entries, write_atomically

SEAMS = ("Separate", "Joined")


def with_seams(base: Path, seams: str) -> None:
    """Rewrite the prompt format in a base's artifact, and its manifest, which has a hash of the file."""
    kept = read_prompt_format(base / "model")
    write_prompt_format(PromptFormat.model_validate(kept.model_dump() | {"seams": seams}), base / "model")
    manifest = Manifest.model_validate_json((base / "manifest.json").read_text("utf-8"))
    files = {name: entry for name, entry in file_entries(base).items() if name in manifest.files}
    write_atomically(
        base / "manifest.json", manifest.model_copy(update={"files": files}).model_dump_json(by_alias=True)
    )


def scores(options: argparse.Namespace, name: str) -> dict[str, list[float]]:
    """Seam → the test score of each seed."""
    entry = task_entry(options.data, name)
    if name != "snli_small":
        entry["prompt"] = entry["prompt"].replace("{text}", "Text: {text}")
    spec = TaskSpec.model_validate(entry)
    task, folder = TaskDefinition.of(spec), options.workdir / name
    optimisation = Optimisation(
        batch_rows=32, learning_rate=2e-3, warmup_steps=30, max_length=192, seed=17, eval_every=100,
        min_steps=options.steps, patience=9, precision="fp32",
    )  # fmt: skip
    prepared = run_stage(
        folder, f"prepare/{task.name}", PrepareParameters(task=task, data=spec.data, fingerprints={}), {}
    )
    inputs = {f"prepare/{task.name}": prepared}
    base = run_stage(folder, "base", BaseParameters(uri=options.base, tasks=(task,), optimisation=optimisation), inputs)
    found: dict[str, list[float]] = {}
    for seams in SEAMS:
        with_seams(base, seams)
        for seed in range(options.seeds):
            parameters = TrainParameters(
                kind="baseline",
                tasks=(task,),
                probabilities={task.name: 1.0},
                max_steps=options.steps,
                optimisation=optimisation.model_copy(update={"seed": 17 + seed}),
                tuning=Tuning(method="Full"),
            )
            stage = f"baseline/{seams.lower()}/seed-{17 + seed}"
            trained = run_stage(folder, stage, parameters, inputs | {"base": base})
            manifest = Manifest.model_validate_json((trained / "manifest.json").read_text("utf-8"))
            found.setdefault(seams, []).append(TrainResult.model_validate(manifest.result).test_score or 0.0)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tasks", default="snli_small")
    parser.add_argument("--base", default="builtin://tiny")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--workdir", type=Path, default=Path("seams"))
    options = parser.parse_args()
    sys.stdout.write("| task | separate | joined | difference |\n|---|---|---|---|\n")
    for name in options.tasks.split(","):
        found = scores(options, name)
        separate, joined = (found[seams] for seams in SEAMS)
        shown = [" ".join(f"{score:.3f}" for score in each) for each in (separate, joined)]
        difference = statistics.mean(joined) - statistics.mean(separate)
        sys.stdout.write(f"| {name} | {shown[0]} | {shown[1]} | {difference:+.3f} |\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
