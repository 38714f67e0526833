"""Seconds of a training step with rows padded, packed with a mask, and packed for varlen attention.

    OMP_NUM_THREADS=1 python tests/benchmarks/packed_attention.py [--bases tiny,small] [--rows short,long] …

Three models with the same random weights take steps by turns on the same rows of mixed length, in one process; each
round begins with another one. On a CPU, varlen attention computes row by row, which no training does there: rows are
padded. On a GPU it is one kernel, in bf16. Seconds are medians; on a CPU those of the process, which other work on the
machine changes little. ``difference`` is the largest relative one of the losses to those of padded rows.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))


from multitask_api.estimates.fitting import CPU_TOKENS
from multitask_api.stage_io.parameters import Optimisation
from multitask_trainer.training.accelerator import make_accelerator
from multitask_trainer.training.attention.choice import choose_attention
from multitask_trainer.training.batching.task_batches import TaskBatches
from multitask_trainer.training.loss_meter import LossMeter
from multitask_trainer.training.optimizer import OptimizerStep, TrainingSettings
from multitask_trainer.tuning import tuning_method
from support.training_speed.bases import LENGTHS, SHAPES, TASKS, SpeedRows
from support.training_speed.combination import LEARNING_RATE, Combination, synchronise

ARMS = ("padded", "mask", "varlen")
GPU_TOKENS = 16384


class Arm:
    """A model of its own, and its steps."""

    def __init__(self, name: str, combination: Combination, rows: SpeedRows) -> None:
        self.seconds: list[float] = []
        self.losses: list[float] = []
        self._device = combination.device
        accelerator = make_accelerator(device=combination.device, threads=1, precision=combination.precision)
        method = tuning_method(combination.tuning, TASKS)
        model = method.prepare(combination.shape.model(accelerator.device, combination.weights_dtype))
        longest = LENGTHS[combination.lengths][-1]
        optimisation = Optimisation(
            batch_rows=combination.batch_rows, learning_rate=LEARNING_RATE, warmup_steps=0, max_length=longest, seed=0,
            eval_every=10**6, min_steps=0, patience=1, precision=combination.precision,
        )  # fmt: skip
        settings = TrainingSettings(10**6, optimisation)
        self._step = OptimizerStep(model, settings, method=method, accelerator=accelerator)
        self._step.loss.train()
        self._meter = LossMeter(accelerator)
        tokens = CPU_TOKENS if combination.device == "cpu" else GPU_TOKENS
        self._batches = TaskBatches(rows.sampler, rows.datasets, rows.batch_rows, tokens, pack=name != "padded")
        if name == "varlen":
            with redirect_stdout(sys.stderr):
                self._batches, attention = choose_attention(
                    model, self._step, self._batches, accelerator, max_length=longest
                )
            if attention is None or attention.kind != "Varlen":
                sys.exit(f"no varlen attention to measure: {attention}")

    def run(self, step: int) -> None:
        """One step."""
        synchronise(self._device)
        begun = self._clock()
        micro_batches, present = self._batches.at(step), self._batches.present(step)
        self._step.run(micro_batches, present, rate=LEARNING_RATE, meter=self._meter)
        self._meter.end_step()
        synchronise(self._device)
        self.seconds.append(self._clock() - begun)
        reading = self._meter.read(step)
        self.losses.append(reading.loss_sum if reading else float("nan"))

    def _clock(self) -> float:
        return time.process_time() if self._device == "cpu" else time.perf_counter()


def measure(combination: Combination) -> str:
    """A line of the table."""
    rows = combination.rows()
    arms = [Arm(name, combination, rows) for name in ARMS]
    for step in range(combination.warmup + combination.steps):
        first = step % len(arms)
        for arm in arms[first:] + arms[:first]:
            arm.run(step)
    padded = arms[0]
    seconds = [statistics.median(arm.seconds[combination.warmup :]) for arm in arms]
    difference = max(
        abs(loss - expected) / abs(expected)
        for arm in arms
        for loss, expected in zip(arm.losses, padded.losses, strict=True)
    )
    cells = [combination.base, combination.lengths, combination.method, *(f"{each:.3f}" for each in seconds)]
    return f"| {' | '.join(cells)} | {seconds[1] / seconds[2]:.2f} | {difference:.0e} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bases", default="tiny,small", help=f"of {', '.join(SHAPES)}")
    parser.add_argument("--rows", default="short,long", help="median 60 tokens, or 300")
    parser.add_argument("--method", default="LoRA", choices=["LoRA", "CGCLoRA", "Full"])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--batch-rows", type=int, default=64)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--warmup", type=int, default=2)
    options = parser.parse_args()
    dtype = "fp32" if options.device == "cpu" else "bf16"
    print("| base | rows | method | padded, s a step | mask | varlen | mask by varlen | difference |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for base in options.bases.split(","):
        for lengths in options.rows.split(","):
            combination = Combination(
                base=base, method=options.method, device=options.device, lengths=lengths, base_dtype=dtype,
                batch_rows=options.batch_rows, steps=options.steps, warmup=options.warmup,
            )  # fmt: skip
            print(measure(combination), flush=True)


if __name__ == "__main__":
    main()
