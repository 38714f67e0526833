"""What dividing the weights of a training over its processes saves and costs, on a CPU, over gloo.

    python tests/benchmarks/sharding.py [--width 512] [--layers 8] [--steps 6]

A randomly initialised decoder is trained (Full) by one process, by two that each hold all weights, and by two that hold
a half each. Memory is what a process holds after the last step: the tensors of weights and optimizer, and how much its
resident memory has grown, which has all else in it. A checkpoint is copied first, which blocks training, and then
written while training goes on; the whole save is what blocked it before. Prints a table.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import socket
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.multiprocessing import start_processes

from multitask_trainer.training.accelerator import make_accelerator
from multitask_trainer.training.batching.dataset import EncodedDataset
from multitask_trainer.training.batching.sampler import Sampler
from multitask_trainer.training.batching.task_batches import TaskBatches
from multitask_trainer.training.checkpoint import CheckpointStore, Progress
from multitask_trainer.training.loss_meter import LossMeter
from multitask_trainer.training.optimizer import OptimizerStep, TrainingSettings
from multitask_trainer.training.parallelism.checkpoints import Checkpoints
from multitask_trainer.training.parallelism.fully_sharded import FullySharded
from multitask_trainer.tuning.full import Full

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.training_fixtures import optimisation, small_decoder

WARM_UP = 2
ROWS = 8
MIB = 2**20


@dataclass(frozen=True)
class Arm:
    """One way to train."""

    name: str
    processes: int
    sharded: bool = False


ARMS = (Arm("one process", 1), Arm("two, each with all", 2), Arm("two, with a half each", 2, sharded=True))


def batches(process: int, processes: int, vocabulary: int) -> TaskBatches:
    """Eight rows of 20 to 60 tokens a step."""
    generator = np.random.default_rng(1)
    prompts = [generator.integers(0, vocabulary, length).tolist() for length in generator.integers(20, 60, 64)]
    rows = EncodedDataset.of(prompts, [prompt[:2] for prompt in prompts])
    sampler = Sampler({"a": 1.0}, {"a": len(prompts)}, batch_rows=ROWS, seed=1)
    return TaskBatches(sampler, [rows], ROWS, 1024, pack=False, process=process, processes=processes)


def measure(rank: int, arm: Arm, port: int, options: argparse.Namespace, folder: Path) -> None:
    """In one process of an arm; leaves its figures in a file."""
    if arm.processes > 1:
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": arm.processes, "MASTER_PORT": port}
        os.environ |= {name: str(value) for name, value in place.items()} | {"MASTER_ADDR": "127.0.0.1"}
    accelerator = make_accelerator(device="cpu", threads=1, precision="fp32")
    before = resident()
    settings = TrainingSettings(options.steps, optimisation(batch_rows=ROWS))

    def make_step() -> OptimizerStep:
        model = Full().prepare(small_decoder(vocab_size=options.vocabulary, hidden_size=options.width,
            intermediate_size=3 * options.width, num_hidden_layers=options.layers, num_attention_heads=8,
            num_key_value_heads=4))  # fmt: skip
        parallelism = FullySharded(accelerator, frozen_base=False) if arm.sharded else None
        return OptimizerStep(model, settings, method=Full(), accelerator=accelerator, parallelism=parallelism)

    step, meter = make_step(), LossMeter(accelerator)
    rows = batches(accelerator.process_index, accelerator.num_processes, options.vocabulary)
    seconds = []
    for number in range(WARM_UP + options.steps):
        begun = time.perf_counter()
        step.run(rows.at(number), rows.present(number), rate=1e-4, meter=meter)
        seconds.append(time.perf_counter() - begun)
    held = sum(local_bytes(value) for value in step.parameters.values())
    held += sum(local_bytes(value) for state in step.optimizer.state.values() for value in state.values())
    figures = {"held": held, "resident": resident() - before, "step": statistics.median(seconds[WARM_UP:])}
    store = CheckpointStore(folder / "checkpoint")
    checkpoints = Checkpoints(step, store, accelerator)
    accelerator.wait_for_everyone()
    begun = time.perf_counter()
    checkpoints.save(Progress(step=1))
    figures["blocking"] = time.perf_counter() - begun
    checkpoints.wait()
    figures["whole"] = time.perf_counter() - begun
    del step, checkpoints
    checkpoints = Checkpoints(make_step(), store, accelerator)
    begun = time.perf_counter()
    checkpoints.restore()
    figures["resume"] = time.perf_counter() - begun
    (folder / f"{rank}.json").write_text(json.dumps(figures), "utf-8")
    if arm.processes > 1:
        torch.distributed.destroy_process_group()


def local_bytes(value: Tensor) -> int:
    """What this process holds of a tensor."""
    local = value.to_local() if isinstance(value, DTensor) else value
    return local.numel() * local.element_size()


def resident() -> int:
    """Bytes of memory of this process that are in use, after freed ones are given back."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text("utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Arm after arm; of each figure the largest of its processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--vocabulary", type=int, default=8000)
    parser.add_argument("--steps", type=int, default=6)
    options = parser.parse_args()
    head = f"{'':22} {'s a step':>9} {'held MiB':>9} {'RSS MiB':>9} {'save, blocks':>13} {'whole':>7} {'resume':>7}"
    sys.stdout.write(f"width {options.width}, {options.layers} layers, vocabulary {options.vocabulary}\n{head}\n")
    for arm in ARMS:
        with tempfile.TemporaryDirectory() as folder, socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            port = unused.getsockname()[1]
            unused.close()
            start_processes(measure, (arm, port, options, Path(folder)), nprocs=arm.processes, start_method="fork")
            each = [json.loads(path.read_text("utf-8")) for path in Path(folder).glob("*.json")]
        most = {name: max(figures[name] for figures in each) for name in each[0]}
        sys.stdout.write(
            f"{arm.name:22} {most['step']:9.2f} {most['held'] / MIB:9.0f} {most['resident'] / MIB:9.0f} "
            f"{most['blocking']:13.2f} {most['whole']:7.2f} {most['resume']:7.2f}\n"
        )
        sys.stdout.flush()


if __name__ == "__main__":
    main()
