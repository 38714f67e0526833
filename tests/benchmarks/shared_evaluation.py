"""Seconds of a validation and of an evaluation by one process, and shared by two.

    OMP_NUM_THREADS=1 python tests/benchmarks/shared_evaluation.py [--processes 1,2] [--rounds 3] [--size small]

Before, one process validated and evaluated, whatever number trained: that is the line with one process. All arms have
the same rows of the same tasks: labels of short and of long texts, sixty labels, and generated texts. Rounds alternate
between the numbers of processes. ``s`` is the median over rounds from the common start to the common end; ``CPU s`` the
median of the process that computed longest, which other work on the machine hardly changes. ``equal``: points and
answers are those of one process, to the last bit.
"""

from __future__ import annotations

import argparse
import pickle
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

from multitask_api.bundle import GenerationSettings, PromptFormat
from multitask_api.stage_io.parameters import TaskDefinition
from multitask_serving.engine.engine import Engine
from multitask_trainer.base_model.builtin import make_model, make_tokenizer, size_of
from multitask_trainer.data.rows import Row
from multitask_trainer.evaluation.scoring import answer_tasks
from multitask_trainer.export.bundle import ServableWeights, TaskBinding, assemble_bundle
from multitask_trainer.runtime.collectives import gather_results
from multitask_trainer.runtime.progress import FileProgressReporter
from multitask_trainer.training.accelerator import make_accelerator
from multitask_trainer.training.batching.dataset import TaskEncoder
from multitask_trainer.training.validation import TaskValidation, validate

sys.path.insert(0, str(Path(__file__).parents[1]))
from support.process_group import run_processes

if TYPE_CHECKING:
    from accelerate import Accelerator

MAX_LENGTH = 256
SIXTY = tuple(f"topic {number}" for number in range(60))
WORDS = {"short": 12, "long": 90, "topics": 40, "texts": 30}
"""Task → the median number of words of its rows."""


def task(name: str, **settings: Any) -> TaskDefinition:
    """A task whose prompt is a text."""
    return TaskDefinition.model_validate({"name": name, "prompt": "{text}\nAnswer:"} | settings)


TASKS = (
    task("short", type="Classification", labels=("yes", "no"), metric="Accuracy"),
    task("long", type="Classification", labels=("low", "middle", "high"), metric="MacroF1"),
    task("topics", type="Classification", labels=SIXTY, metric="Accuracy"),
    task("texts", type="Generation", metric="TokenF1", generation=GenerationSettings(max_new_tokens=24)),
)


@dataclass(frozen=True)
class Arm:
    """One round of a number of processes."""

    seconds: float
    cpu: float
    """Of the process that computed longest."""
    result: object


def make_rows(count: int) -> dict[str, list[Row]]:
    """Texts of mixed length, and answers drawn at random."""
    generator = random.Random(1)
    lexicon = ["".join(generator.choices("abcdefghijklmnopqrstuvwxyz", k=generator.randint(2, 9))) for _ in range(3000)]

    def text(words: float) -> str:
        return " ".join(generator.choices(lexicon, k=max(1, int(generator.lognormvariate(0, 0.6) * words))))

    return {
        each.name: [
            Row({"text": text(WORDS[each.name])}, generator.choice(each.labels))
            if each.labels
            else Row({"text": text(WORDS[each.name])}, None, (text(8),))
            for _ in range(count)
        ]
        for each in TASKS
    }


def write_bundle(folder: Path, rows: dict[str, list[Row]], size: str) -> None:
    """A random model with a tokenizer made of the rows, as a base and as a bundle."""
    texts = [text for each in rows.values() for row in each for text in (*row.fields.values(), row.answer)]
    tokenizer = make_tokenizer([*texts, "\nAnswer:"], size_of(size).vocabulary)
    for path in (folder / "base", folder / "served" / "model"):
        make_model(size_of(size), tokenizer, 1).save_pretrained(path)
        tokenizer.save_pretrained(path)
    assemble_bundle(
        folder / "bundle",
        base=folder / "base",
        servables=[ServableWeights("it", folder / "served")],
        tasks=[TaskBinding(each, "it", "it") for each in TASKS],
        precision="fp32",
        max_length=MAX_LENGTH,
        revision="r",
    )


def run_arm(folder: Path, rows: dict[str, list[Row]], which: str) -> int:
    """As one of the processes: one validation or evaluation; the main process leaves its `Arm`."""
    accelerator = make_accelerator(device="cpu", threads=1, precision="fp32")
    make_work = {"validation": _validation, "evaluation": _evaluation}[which]
    few = {name: each[:2] for name, each in rows.items()}
    for given in (few, rows):  # the first one loads what is loaded lazily
        work = make_work(folder, given, accelerator)
        gather_results(lambda: None, accelerator)  # a common start
        begun, cpu = time.perf_counter(), time.process_time()
        result = work()
        seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
    longest = max(gather_results(lambda: cpu, accelerator))
    if accelerator.is_main_process:
        (folder / "arm.pickle").write_bytes(pickle.dumps(Arm(seconds, longest, result)))
    return 0


def _validation(folder: Path, rows: dict[str, list[Row]], accelerator: Accelerator) -> Callable[[], object]:
    model = AutoModelForCausalLM.from_pretrained(folder / "base")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "base")
    validations = {}
    for each in TASKS:
        encoder = TaskEncoder.of(
            each, tokenizer, max_length=MAX_LENGTH, chat_template=False, prompt_format=PromptFormat()
        )
        validations[each.name] = TaskValidation.of(encoder, rows[each.name])
    return lambda: validate(model, validations, select=lambda _: nullcontext(), accelerator=accelerator)


def _evaluation(folder: Path, rows: dict[str, list[Row]], accelerator: Accelerator) -> Callable[[], object]:
    engine = Engine.load(folder / "bundle", threads=1)
    reporter = FileProgressReporter("benchmark", None)
    return lambda: answer_tasks(engine, [(each, rows[each.name]) for each in TASKS], reporter, accelerator)


def main() -> None:
    """Run all arms and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", default="1,2", type=lambda text: [int(each) for each in text.split(",")])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=500, help="of each task")
    parser.add_argument("--size", default="small", help="of the builtin model")
    options = parser.parse_args()
    logging.disable_progress_bar()
    rows = make_rows(options.rows)
    arms: dict[tuple[str, int], list[Arm]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if run_processes(1, lambda: write_bundle(folder, rows, options.size) or 0) != [0]:
            raise SystemExit("the bundle could not be written")
        for number in range(options.rounds):
            for processes in options.processes if number % 2 else reversed(options.processes):
                for which in ("validation", "evaluation"):
                    statuses = run_processes(processes, lambda which=which: run_arm(folder, rows, which))
                    if statuses != [0] * processes:
                        raise SystemExit(f"{which} by {processes} processes: {statuses}")
                    arms.setdefault((which, processes), []).append(pickle.loads((folder / "arm.pickle").read_bytes()))
    print("| what | processes | s | CPU s | speed | speed in CPU time | equal |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for (which, processes), each in sorted(arms.items(), key=lambda item: (item[0][0] != "validation", item[0][1])):
        one = arms[which, options.processes[0]]
        seconds, cpu = (statistics.median(getattr(arm, name) for arm in each) for name in ("seconds", "cpu"))
        seconds_1, cpu_1 = (statistics.median(getattr(arm, name) for arm in one) for name in ("seconds", "cpu"))
        equal = "yes" if all(arm.result == one[0].result for arm in each) else "NO"
        print(
            f"| {which} | {processes} | {seconds:.2f} | {cpu:.2f} | {seconds_1 / seconds:.2f} | {cpu_1 / cpu:.2f} |"
            f" {equal} |"
        )


if __name__ == "__main__":
    main()
