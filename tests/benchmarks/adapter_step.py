"""What a step of CGC-LoRA costs beside one of plain LoRA with as many trained weights.

    python tests/benchmarks/adapter_step.py [--widths 96,576] [--layers 2] [--tasks 3] [--rank 8] [--device cuda] …

A random Llama with a vocabulary of 256, so that the head costs little; adapters on all seven projections of a layer;
rows of all tasks in every micro-batch. Both methods take the steps of the training loop: forward and backward over
every micro-batch, clipping, and AdamW, for CGC-LoRA with its count of steps for each task. Rounds alternate between the
two, beginning with the other one each time; printed are the medians over rounds, their ratios, and the largest memory:
of the tensors on a GPU, of the process on a CPU, where each method has a process of its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

from multitask_api.resource.tuning import Tuning
from multitask_trainer.tuning import tuning_method

METHODS = ("LoRA", "CGCLoRA")
VOCABULARY = 256
DTYPES = {"fp32": None, "bf16": torch.bfloat16}


def make_step(method_name: str, width: int, options: argparse.Namespace) -> Callable[[], float]:
    """One optimizer step with new rows; gives its seconds."""
    names = [f"task-{number}" for number in range(options.tasks)]
    method = tuning_method(Tuning.model_validate({"method": method_name, "rank": options.rank}), names)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=width, intermediate_size=width * 8 // 3 // 32 * 32,
        num_hidden_layers=options.layers, num_attention_heads=max(1, width // 64),
        num_key_value_heads=max(1, width // 64), attn_implementation="sdpa",
    )  # fmt: skip
    with torch.device(options.device):
        base = LlamaForCausalLM(config).to(DTYPES[options.dtype] or torch.float32)
        model = method.prepare(base).to(options.device).train()
    trained = [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-4, fused=True)
    generator = torch.Generator().manual_seed(0)

    def batch() -> tuple[torch.Tensor, torch.Tensor]:
        ids = torch.randint(0, VOCABULARY, (options.rows, options.tokens), generator=generator).to(options.device)
        shape = (options.rows, options.tokens) if options.packed else (options.rows,)
        return ids, torch.randint(0, options.tasks, shape, generator=generator).to(options.device)

    def step() -> float:
        batches = [batch() for _ in range(options.micro_batches)]
        synchronise(options.device)
        begun = time.perf_counter()
        for ids, tasks in batches:
            precision = DTYPES[options.dtype]
            with method.select_tasks(model, tasks):
                with torch.autocast(options.device, precision) if precision else nullcontext():
                    logits = model(input_ids=ids, use_cache=False).logits
                cross_entropy(logits.float().flatten(0, 1), ids.flatten()).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        method.task_step(model, optimizer, torch.ones(options.tasks, dtype=torch.bool))
        optimizer.zero_grad(set_to_none=True)
        synchronise(options.device)
        return time.perf_counter() - begun

    return step


def synchronise(device: str) -> None:
    """Wait for what was started on a GPU."""
    if device != "cpu":
        torch.cuda.synchronize()


def seconds(width: int, options: argparse.Namespace) -> dict[str, list[float]]:
    """Method → seconds of a step in each round, after two steps that do not count."""
    steps = {name: make_step(name, width, options) for name in METHODS}
    for _ in range(2):
        for step in steps.values():
            step()
    measured: dict[str, list[float]] = {name: [] for name in METHODS}
    for number in range(options.rounds):
        for name in METHODS if number % 2 == 0 else METHODS[::-1]:
            measured[name].append(steps[name]())
    return measured


def own_memory(method: str, width: int, options: argparse.Namespace) -> float:
    """MiB at the most, in three steps: allocated on the GPU, or resident in this process."""
    step = make_step(method, width, options)
    if options.device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    for _ in range(3):
        step()
    if options.device != "cpu":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def memory(method: str, width: int, arguments: list[str]) -> float:
    """`own_memory` of a process of its own."""
    command = [sys.executable, __file__, *arguments, "--memory-of", method, "--widths", str(width)]
    return float(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def main(arguments: list[str]) -> None:
    """Print a line for each width."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--widths", default="96,576", help="hidden sizes, separated by commas")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--tasks", type=int, default=3)
    parser.add_argument("--rank", type=int, default=8, help="of all experts together, and of LoRA")
    parser.add_argument("--rows", type=int, default=16, help="of a micro-batch")
    parser.add_argument("--tokens", type=int, default=64, help="of a row")
    parser.add_argument("--micro-batches", type=int, default=2, help="of a step")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--packed", action="store_true", help="a task for each token, as in packed sequences")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument(
        "--dtype", choices=list(DTYPES), default="fp32", help="of the base and the computation; adapters are fp32"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--memory-of", choices=METHODS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    widths = [int(width) for width in options.widths.split(",")]
    if options.memory_of:
        print(own_memory(options.memory_of, widths[0], options))
        return
    device = torch.cuda.get_device_name() if options.device == "cuda" else f"cpu, {options.threads} thread(s)"
    print(
        f"{device}, {options.dtype}; {options.layers} layers, rank {options.rank}, {options.tasks} tasks; a step is "
        f"{options.micro_batches} × {options.rows} rows of {options.tokens} tokens; {options.rounds} rounds"
    )
    print("width   LoRA ms   CGC-LoRA ms   ratio (of rounds, quartiles)   LoRA MiB   CGC-LoRA MiB   ratio")
    for width in widths:
        measured = seconds(width, options)
        lora, cgc = (statistics.median(measured[name]) * 1000 for name in METHODS)
        ratios = [cgc / lora for lora, cgc in zip(*measured.values(), strict=True)]
        low, _, high = statistics.quantiles(ratios, n=4)
        lora_mib, cgc_mib = (memory(name, width, arguments) for name in METHODS)
        print(
            f"{width:5d} {lora:9.1f} {cgc:13.1f}   {cgc / lora:.3f} ({low:.3f} to {high:.3f}) {lora_mib:19.0f} "
            f"{cgc_mib:14.0f}   {cgc_mib / lora_mib:.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
