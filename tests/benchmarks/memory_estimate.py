"""The estimate of training's memory beside what torch allocates, on a CPU.

    python tests/benchmarks/memory_estimate.py [--widths 64,128] [--rows 4,16] [--length 64] [--layers 4] [--skip-bf16]

A random Llama of each width, with micro-batches of so many rows. Each line is two optimizer steps of the training loop,
of two micro-batches each; of the second one every allocation and release of torch's allocator is counted. State is
weights, gradients and AdamW's moments; passes are what forward and backward pass take beside it, at their peak.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from multitask_api.resource.tuning import Tuning
from support.allocations import Setting, llama

METHODS = {
    "Full": Tuning(method="Full"),
    "LoRA": Tuning(method="LoRA", rank=8),
    "CGCLoRA": Tuning(method="CGCLoRA", rank=9),
}
MIB = 2**20


def settings(options: argparse.Namespace) -> Iterator[tuple[str, int, Setting]]:
    """Method, width and the rest of every line."""
    widths, rows = ([int(value) for value in text.split(",")] for text in (options.widths, options.rows))
    for mixed, name, width, count, checkpointing in itertools.product(
        (False,) if options.skip_bf16 else (False, True), METHODS, widths, rows, (False, True)
    ):
        config = llama(width, num_hidden_layers=options.layers)
        yield name, width, Setting(config, METHODS[name], count, options.length, 2, mixed, checkpointing)


def main(arguments: list[str]) -> None:
    """Print a line for each setting, then the largest errors."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--widths", default="64,128")
    parser.add_argument("--rows", default="4,16", help="rows of a micro-batch")
    parser.add_argument("--length", type=int, default=64, help="tokens of a row")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--skip-bf16", action="store_true", help="a CPU is slow in it")
    options = parser.parse_args(arguments)
    print(f"{options.layers} layers, rows of {options.length} tokens; MiB, estimated / measured")
    print("dtype  method    width  rows  checkpointing          state           passes  ratio            total  ratio")
    ratios: list[tuple[float, float]] = []
    for name, width, setting in settings(options):
        estimated, measured = setting.estimated(), setting.measured()
        passes = estimated.activations + estimated.loss
        state = measured.total - measured.passes
        ratios.append((passes / measured.passes, estimated.total / measured.total))
        pairs = ((estimated.state, state), (passes, measured.passes), (estimated.total, measured.total))
        state_text, passes_text, total_text = (f"{mine / MIB:.2f} / {theirs / MIB:.2f}" for mine, theirs in pairs)
        print(
            f"{'bf16' if setting.mixed else 'fp32'}   {name:8} {width:6} {setting.rows:5}  "
            f"{'yes' if setting.checkpointing else 'no':13} {state_text:>14} {passes_text:>16}  {ratios[-1][0]:.3f} "
            f"{total_text:>16}  {ratios[-1][1]:.3f}",
            flush=True,
        )
    for number, what in enumerate(("passes", "total")):
        values = [ratio[number] for ratio in ratios]
        print(f"{what}: estimated / measured is between {min(values):.3f} and {max(values):.3f}")


if __name__ == "__main__":
    main(sys.argv[1:])
