"""What rows as token ids cost a stage: encoded by each process itself, and once for all in a file that all map.

    python tests/benchmarks/tokenised_rows.py [--rows 100000] [--words 60] [--processes 2] [--steps 40]

Every arm is a process of its own, or several that begin at once, over the same prepared rows and with the builtin
tokenizer; each ends with reading all ids once, as training does. ``before`` is what every stage and process did: all
rows read, their ids collected in lists, then joined. ``private`` is memory of the process alone (RssAnon), its peak and
what is left at the end, without what the process had before: pages of a mapped file are shared. All arms have to have
the same ids.

The second table is a training step with batches that are prepared when it asks for them, and ahead of it by a thread:
the median over steps that take turns, on one thread.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from pathlib import Path

import numpy as np

from multitask_api.bundle import PromptFormat
from multitask_api.stage_io.parameters import Optimisation, TaskDefinition
from multitask_serving.engine.prompt.encoding import encode_prompts
from multitask_trainer.data.rows import PreparedSplit, Row, read_rows, write_rows
from multitask_trainer.training.batching.dataset import ROWS_AT_ONCE, EncodedDataset, TaskEncoder
from multitask_trainer.training.batching.row_cache import RowCache

TASK = TaskDefinition(
    name="topic",
    type="Classification",
    labels=("short", "long", "neither"),
    prompt="{text}\nLength:",
    metric="Accuracy",
)
MAX_LENGTH = 512
MIB = 1 << 20


def make(folder: Path, rows: int, words: int) -> None:
    """Rows of mixed length, and a tokenizer made from the first of them."""
    from multitask_trainer.base_model.builtin import make_tokenizer

    generator = random.Random(1)
    lexicon = ["".join(generator.choices("abcdefghijklmnopqrstuvwxyz", k=generator.randint(2, 9))) for _ in range(5000)]
    given = [
        Row(
            {"text": " ".join(generator.choices(lexicon, k=max(1, int(generator.lognormvariate(0, 0.8) * words))))},
            generator.choice(TASK.labels),
        )
        for _ in range(rows)
    ]
    (folder / "prepared").mkdir()
    write_rows(folder / "prepared", "train", given)
    texts = [row.fields["text"] for row in given[:2000]]
    make_tokenizer([*texts, "\nLength:", *(f" {label}" for label in TASK.labels)], 8000).save_pretrained(
        folder / "tokenizer"
    )


def as_before(encoder: TaskEncoder, artifact: Path) -> EncodedDataset:
    """Every row and every id as Python objects first."""
    rows = read_rows(artifact, "train")
    known = {label.label: label.ids for label in encoder.labels}
    prompts, answers = [], []
    for begin in range(0, len(rows), ROWS_AT_ONCE):
        part = rows[begin : begin + ROWS_AT_ONCE]
        requests = [(encoder.pieces, row.fields, encoder.prompt_tokens, encoder.bos) for row in part]
        prompts += [prompt.ids for prompt in encode_prompts(requests, encoder.tokenizer)]
        answers += [(*known[row.answer], encoder.eos) for row in part]
    return EncodedDataset.of(prompts, answers)


def run_arm(folder: Path, arm: str) -> dict[str, float]:
    """In a process of its own: seconds, CPU seconds, and MiB."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer")
    encoder = TaskEncoder.of(TASK, tokenizer, max_length=MAX_LENGTH, chat_template=False, prompt_format=PromptFormat())
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    before = private_bytes()
    begun, cpu = time.monotonic(), time.process_time()
    with PeakMemory() as peak:
        if arm == "before":
            dataset = as_before(encoder, folder / "prepared")
        else:
            cache = RowCache(folder / "rows", "builtin")
            dataset = cache.encode(encoder, PreparedSplit(folder / "prepared" / "train.parquet"))
        tokens = len(dataset.ids)
        checksum = zlib.crc32(dataset.prompt_lengths.tobytes(), zlib.crc32(memoryview(dataset.ids).cast("B")))
    return {
        "seconds": time.monotonic() - begun,
        "cpu": time.process_time() - cpu,
        "peak": (peak.bytes - before) / MIB,
        "left": (private_bytes() - before) / MIB,
        "tokens": tokens,
        "checksum": checksum,
    }


def private_bytes() -> int:
    """Resident memory of this process that no file backs."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


class PeakMemory:
    """The largest `private_bytes` while it is entered, looked at a hundred times a second."""

    def __init__(self) -> None:
        self.bytes = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            self.bytes = max(self.bytes, private_bytes())
            if self._ended.wait(0.01):
                return


def run_together(folder: Path, arm: str, processes: int) -> list[dict[str, float]]:
    """So many processes of one arm, which begin at once."""
    argv = [sys.executable, __file__, "--arm", arm, "--folder", str(folder)]
    started = [
        subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(processes)
    ]
    for process in started:
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise SystemExit(f"a process of {arm} has ended")
    for process in started:
        assert process.stdin is not None
        process.stdin.write("begin\n")
        process.stdin.flush()
    return [json.loads(process.communicate()[0]) for process in started]


def step_seconds(steps: int) -> dict[str, tuple[float, float]]:
    """Medians of seconds and of CPU seconds: of a step whose batches are prepared when it asks for them, of one whose
    batches are prepared ahead, and of preparing alone.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from multitask_api.estimates.fitting import CPU_TOKENS
    from multitask_api.resource.tuning import Tuning
    from multitask_trainer.training.accelerator import make_accelerator
    from multitask_trainer.training.batching.prefetch import Prefetcher
    from multitask_trainer.training.batching.sampler import Sampler
    from multitask_trainer.training.batching.task_batches import TaskBatches
    from multitask_trainer.training.loss_meter import LossMeter
    from multitask_trainer.training.optimizer import OptimizerStep, TrainingSettings
    from multitask_trainer.tuning import tuning_method

    generator = np.random.default_rng(1)
    prompts = [generator.integers(0, 256, length).tolist() for length in generator.integers(8, 120, 4000)]
    dataset = EncodedDataset.of(prompts, [[1, 2]] * len(prompts))
    batches = TaskBatches(
        Sampler({"a": 1.0}, {"a": 4000}, batch_rows=64, seed=1), [dataset], 64, CPU_TOKENS, pack=False
    )
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=256, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4
    )
    method = tuning_method(Tuning(method="Full"), ("a",))
    accelerator = make_accelerator(device="cpu", threads=1, precision="fp32")
    optimisation = Optimisation(
        batch_rows=64, learning_rate=1e-4, warmup_steps=0, max_length=128, seed=1, eval_every=10, min_steps=0,
        patience=1, precision="fp32",
    )  # fmt: skip
    settings = TrainingSettings(10**6, optimisation)
    step = OptimizerStep(method.prepare(LlamaForCausalLM(config)), settings, method=method, accelerator=accelerator)
    meter = LossMeter(accelerator)
    seconds: dict[str, list[np.ndarray]] = {"asked": [], "ahead": [], "alone": []}

    def now() -> np.ndarray:
        return np.array([time.perf_counter(), time.process_time()])

    with Prefetcher() as prefetcher:
        prefetcher.at(batches, 0)
        for number in range(1, steps + 1):
            for arm in ("asked", "ahead") if number % 2 else ("ahead", "asked"):
                begun = now()
                taken = prefetcher.at(batches, number) if arm == "ahead" else batches.at(number)
                if arm == "asked":
                    seconds["alone"].append(now() - begun)
                step.run(taken, batches.present(number), rate=1e-4, meter=meter)
                seconds[arm].append(now() - begun)
    return {arm: tuple(np.median(each, axis=0).tolist()) for arm, each in seconds.items()}


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000, help="0: the second table only")
    parser.add_argument("--words", type=int, default=60, help="the median of a row")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--arm", choices=("before", "file"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.arm:
        print(json.dumps(run_arm(options.folder, options.arm)))
        return
    if options.rows:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            make(folder, options.rows, options.words)
            print_rows(folder, options)
    print_steps(options.steps)


def print_steps(steps: int) -> None:
    """The second table."""
    found = {arm: [1000 * each for each in medians] for arm, medians in step_seconds(steps).items()}
    print(f"\n{'a step of 64 rows, its batches':38}{'ms':>9}{'CPU ms':>12}")
    for arm, name in (("asked", "prepared when asked for"), ("ahead", "prepared ahead"), ("alone", "preparing alone")):
        print(f"{name:38}{found[arm][0]:9.1f}{found[arm][1]:12.1f}")


def print_rows(folder: Path, options: argparse.Namespace) -> None:
    """The first table."""
    several = options.processes
    arms = [
        ("before: every stage", run_together(folder, "before", 1)),
        (f"before: {several} processes at once", run_together(folder, "before", several)),
        ("file: the first stage", run_together(folder, "file", 1)),
        ("file: a later stage", run_together(folder, "file", 1)),
    ]
    [path] = (folder / "rows").glob("*.bin")
    size = path.stat().st_size
    path.unlink()
    arms.append((f"file: {several} processes, first stage", run_together(folder, "file", several)))
    arms.append((f"file: {several} processes, a later one", run_together(folder, "file", several)))
    every = [each for _, processes in arms for each in processes]
    if len({(each["tokens"], each["checksum"]) for each in every}) != 1:
        raise SystemExit("the arms have different ids")
    print(f"{options.rows:,} rows, {every[0]['tokens']:,.0f} tokens, a file of {size / MIB:.0f} MiB")
    print(f"{'':38}{'seconds':>9}{'CPU s, all':>12}{'peak MiB':>10}{'left MiB':>10}   private, of one process")
    for name, processes in arms:
        longest = max(each["seconds"] for each in processes)
        cpu = sum(each["cpu"] for each in processes)
        peak, left = (max(each[what] for each in processes) for what in ("peak", "left"))
        print(f"{name:38}{longest:9.1f}{cpu:12.1f}{peak:10.0f}{left:10.0f}")


if __name__ == "__main__":
    main()
