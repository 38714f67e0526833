"""What torch.compile of each decoder layer saves a training step, and after how many steps it has paid for itself.

    OMP_NUM_THREADS=1 python tests/benchmarks/compiled_layers.py [--methods LoRA,Full] [--widths 128,576] [--steps 12]

The step is that of training: micro-batches of rows of mixed length, so shapes differ from pass to pass; layers are
compiled with dynamic shapes. Two models with the same weights, one of them compiled, take steps by turns on the same
rows in one process. Seconds are CPU seconds of the process and of the compilers that it starts, on one thread: other
work on the machine hardly changes them. ``compilation`` is what the steps of the warm-up took beyond as many later
ones; ``later ones`` counts graphs that were compiled after it; ``pays after`` is compilation by what a step saves.
"""

from __future__ import annotations

import argparse
import os
import statistics

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from multitask_api.resource.tuning import Tuning
from multitask_api.stage_io.parameters import Optimisation
from multitask_trainer.training.accelerator import make_accelerator
from multitask_trainer.training.batching.dataset import EncodedDataset
from multitask_trainer.training.batching.sampler import Sampler
from multitask_trainer.training.batching.task_batches import TaskBatches
from multitask_trainer.training.loss_meter import LossMeter
from multitask_trainer.training.optimizer import OptimizerStep, TrainingSettings
from multitask_trainer.training.run import CPU_TOKENS
from multitask_trainer.tuning import tuning_method

VOCABULARY = 512
HEAD_WIDTH = 32
OPTIMISATION = Optimisation(
    batch_rows=32, learning_rate=1e-4, warmup_steps=0, max_length=256, seed=1, eval_every=10, min_steps=0, patience=1,
    precision="fp32",
)  # fmt: skip


def make_step(method_name: str, width: int, layers: int) -> tuple[OptimizerStep, LlamaForCausalLM]:
    """A random model and what trains it; the same for the same arguments."""
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=width, intermediate_size=width * 8 // 3 // 32 * 32, num_hidden_layers=layers,
        num_attention_heads=width // HEAD_WIDTH, num_key_value_heads=width // HEAD_WIDTH, attn_implementation="sdpa",
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    method = tuning_method(Tuning.model_validate({"method": method_name}), ("a",))
    accelerator = make_accelerator(device="cpu", threads=1, precision="fp32")
    prepared = method.prepare(model)
    settings = TrainingSettings(10**6, OPTIMISATION)
    return OptimizerStep(prepared, settings, method=method, accelerator=accelerator), model


def make_batches() -> TaskBatches:
    """Rows of 8 to 250 tokens, short answers."""
    generator = np.random.default_rng(1)
    lengths = np.clip(generator.lognormal(4.0, 0.7, 4000).astype(int), 8, 250)
    prompts = [generator.integers(0, VOCABULARY, length).tolist() for length in lengths]
    dataset = EncodedDataset.of(prompts, [[1, 2]] * len(prompts))
    sampler = Sampler({"a": 1.0}, {"a": len(prompts)}, batch_rows=OPTIMISATION.batch_rows, seed=1)
    return TaskBatches(sampler, [dataset], OPTIMISATION.batch_rows, CPU_TOKENS, pack=False)


def measure(method: str, width: int, layers: int, *, warm_up: int, steps: int) -> str:
    """A line of the table."""
    arms = {name: make_step(method, width, layers) for name in ("eager", "compiled")}
    decoder = next(module for module in arms["compiled"][1].modules() if hasattr(module, "layers"))
    for layer in decoder.layers:
        layer.compile(dynamic=True)
    meter = LossMeter(make_accelerator(device="cpu", threads=1, precision="fp32"))
    batches = make_batches()
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    compiled_before = 0
    for number in range(warm_up + steps):
        if number == warm_up:
            compiled_before = compilations()
        for name in ("eager", "compiled") if number % 2 else ("compiled", "eager"):
            begun = cpu_seconds()
            arms[name][0].run(batches.at(number), batches.present(number), rate=1e-4, meter=meter)
            seconds[name].append(cpu_seconds() - begun)
    later = compilations() - compiled_before
    eager, compiled = (statistics.median(each[warm_up:]) for each in seconds.values())
    compilation = sum(seconds["compiled"][:warm_up]) - warm_up * compiled
    saved = eager - compiled
    pays = f"{compilation / saved:,.0f} steps" if saved > 0 else "never"
    return (
        f"| {method} | {width} × {layers} | {eager:.3f} | {compiled:.3f} | {eager / compiled:.2f} | {compilation:.0f} |"
        f" {later} | {pays} |"
    )


def cpu_seconds() -> float:
    """Of this process and of the children that have ended."""
    return sum(os.times()[:4])


def compilations() -> int:
    """Graphs that were compiled in this process so far."""
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default="LoRA,Full")
    parser.add_argument("--widths", default="128,576")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--warm-up", type=int, default=4)
    parser.add_argument("--steps", type=int, default=12)
    options = parser.parse_args()
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    print("| method | width × layers | eager, s a step | compiled | ratio | compilation, s | later ones | pays after |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for method in options.methods.split(","):
        for width in map(int, options.widths.split(",")):
            torch._dynamo.reset()
            line = measure(method, width, options.layers, warm_up=options.warm_up, steps=options.steps)
            print(line, flush=True)


if __name__ == "__main__":
    main()
