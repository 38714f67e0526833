"""Trainings by one or several processes, started as one program; rank 0 leaves weights and losses of each in a file.

``several_processes.py FOLDER LAUNCHES``: a JSON list of pairs, a number of processes and the `Case`s that they train
one after the other. All processes are forks of this one: what it imports takes longer than the trainings.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.multiprocessing import start_processes
from torch.nn.functional import cross_entropy
from torch.overrides import TorchFunctionMode

from multitask_api.resource.tuning import Tuning
from multitask_api.stage_io.results import TaskPoint
from multitask_serving.engine.model.backbone import Backbone, eval_mode
from multitask_trainer.errors import Interrupted, StageError
from multitask_trainer.runtime.progress import FileProgressReporter
from multitask_trainer.training.accelerator import make_accelerator
from multitask_trainer.training.batching.dataset import EncodedDataset
from multitask_trainer.training.batching.layouts import padded
from multitask_trainer.training.batching.sampler import Sampler
from multitask_trainer.training.batching.task_batches import TaskBatches
from multitask_trainer.training.checkpoint import CheckpointStore
from multitask_trainer.training.device_memory import SharedMemory
from multitask_trainer.training.loop import TrainingLoop
from multitask_trainer.training.loss import target_logits
from multitask_trainer.training.micro_batch import fit
from multitask_trainer.training.optimizer import OptimizerStep, TrainingSettings
from multitask_trainer.training.parallelism.fully_sharded import FullySharded
from multitask_trainer.tuning import tuning_method
from multitask_trainer.tuning.method import TuningMethod
from support.simulated_memory import SimulatedMemory
from support.training_fixtures import optimisation, small_decoder

METHODS = {
    "Full": Tuning(method="Full"),
    "LoRA": Tuning(method="LoRA", rank=4),
    "CGCLoRA": Tuning(method="CGCLoRA", rank=8),
}
SHARES = {"a": 0.6, "b": 0.35, "c": 0.05}
"""The last task has no row in some steps."""
STEPS = 6


@dataclass(frozen=True)
class Case:
    """One training. A second one of the same name goes on from its checkpoint."""

    name: str
    method: str
    sharded: bool = False
    stop_after: int | None = None
    """The validation after this step asks the process to stop."""
    mirror: bool = False
    """The checkpoint's folder ends with the launch; a mirror outlives it."""
    memory: tuple[int, ...] = ()
    """MiB that are left in each process; the size of micro-batches is then found by trial passes."""
    full: int | None = None
    """The process in whose memory gradients and optimizer state have no room."""
    fitting: tuple[int, ...] = ()
    """Tokens of a pass that fit into the memory of each process."""


def train(case: Case, folder: Path) -> None:
    """Six steps of eight rows of different lengths, of three tasks, with a validation after every second one."""
    accelerator = make_accelerator(device="cpu", threads=1, precision="fp32")
    method = tuning_method(METHODS[case.method], tuple(SHARES))
    is_first = int(os.environ.get("RANK", "0")) == 0
    # The first process alone has weights, where they are not frozen.
    with torch.device("cpu" if is_first or not case.sharded or method.freezes_base else "meta"):
        model = method.prepare(small_decoder())
    parallelism = FullySharded(accelerator, frozen_base=method.freezes_base) if case.sharded else None

    validated: list[int] = []

    def validate() -> dict[str, TaskPoint]:
        validated.append(loop.progress.step)
        if loop.progress.step == case.stop_after:
            os.kill(os.getpid(), signal.SIGTERM)
        # The first process alone has the passes that count; the others make fewer.
        with step.evaluation():
            loss = [held_out_loss(model, method, max(0, 3 - accelerator.process_index))]
        if accelerator.num_processes > 1:
            broadcast_object_list(loss)
        return {"a": TaskPoint(loss=loss[0], score=0.5)}

    settings = TrainingSettings(STEPS, optimisation(batch_rows=8, eval_every=2, warmup_steps=0))
    step = OptimizerStep(model, settings, method=method, accelerator=accelerator, parallelism=parallelism)
    rows = batches(accelerator.process_index, accelerator.num_processes)
    if case.memory:
        memory = SimulatedMemory(step, left=case.memory[accelerator.process_index])
        try:
            with _Full() if case.full == accelerator.process_index else nullcontext():
                size = fit(step, rows, accelerator, SharedMemory(memory, accelerator.device))
        except StageError as error:
            (folder / f"error-{accelerator.process_index}.txt").write_text(str(error))
            return
        rows = rows.with_budget(size.tokens)
    if case.fitting:
        limit_passes(model, case.fitting[accelerator.process_index])
    loop = TrainingLoop(
        step,
        rows,
        settings,
        accelerator=accelerator,
        store=CheckpointStore(
            folder / f"checkpoint-{accelerator.num_processes if case.mirror else ''}",
            f"file://{folder}/mirror" if case.mirror else None,
        ),
        reporter=FileProgressReporter("test", None),
        validate=validate,
    )
    held = sum(map(local_size, model.parameters()))
    try:
        progress = loop.run()
    except Interrupted:
        return
    if accelerator.is_main_process:
        weights = {name: value.detach() for name, value in model.named_parameters() if value.requires_grad}
        losses = [(point.train_loss, point.tasks["a"].loss) for point in progress.curve]
        results = {
            "budget": loop.micro_batch.tokens,
            "processes": accelerator.num_processes,
            "tokens": progress.tokens,
            "losses": losses,
        }
        torch.save({"weights": weights, "held": held, "validated": validated, **results}, folder / "out.pt")


class _Full(TorchFunctionMode):
    """No tensor as large as a weight can be made."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (torch.zeros_like, torch.empty_like) and args[0].numel() > 16:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return func(*args, **(kwargs or {}))


def limit_passes(model: nn.Module, tokens: int) -> None:
    """A pass of more tokens than so many is out of memory."""

    def note(_module: nn.Module, _arguments: Any, keywords: dict[str, Any]) -> None:
        if keywords["input_ids"].numel() > tokens:
            raise torch.OutOfMemoryError("CUDA out of memory")

    decoder: Any = model
    decoder.get_decoder().register_forward_pre_hook(note, with_kwargs=True)


def local_size(value: Tensor) -> int:
    """The elements of a parameter that this process holds."""
    return value.to_local().numel() if isinstance(value, DTensor) else value.numel()


def batches(process: int, processes: int) -> TaskBatches:
    """Few tokens a micro-batch, so that the processes have different numbers of micro-batches."""
    generator = np.random.default_rng(1)
    prompts = [generator.integers(0, 61, length).tolist() for length in generator.integers(3, 20, 40)]
    examples = EncodedDataset.of(prompts, [prompt[: 1 + row % 3] for row, prompt in enumerate(prompts)])
    return TaskBatches(
        sampler=Sampler(SHARES, dict.fromkeys(SHARES, 40), batch_rows=8, seed=1),
        datasets=[examples] * len(SHARES),
        batch_rows=8,
        token_budget=40,
        pack=False,
        process=process,
        processes=processes,
    )


def held_out_loss(model: nn.Module, method: TuningMethod, passes: int) -> float:
    """Of rows of the first task that are not trained on, in so many forward passes."""
    generator = np.random.default_rng(2)
    rows = [(generator.integers(0, 61, 9).astype(np.int32), 5) for _ in range(passes)]
    backbone = Backbone.of(model)
    total = 0.0
    with eval_mode(model), method.select_tasks(model, torch.tensor([0])):
        for batch in padded(rows, batch_rows=passes, token_budget=8):
            logits = target_logits(backbone, batch)
            total += float((cross_entropy(logits, batch.targets, reduction="none") * batch.weights).sum())
    return total


def run_rank(rank: int, processes: int, port: int, folder: Path, cases: list[Case]) -> None:
    """One process of a launch."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    if processes > 1:
        os.environ |= {name: str(value) for name, value in place.items()}
    for case in cases:
        (folder / case.name).mkdir(exist_ok=True)
        train(case, folder / case.name)
    if processes > 1:
        torch.distributed.destroy_process_group()


def main(folder: Path, launches: list[tuple[int, list[Case]]]) -> None:
    """Launch after launch."""
    for processes, cases in launches:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            port = unused.getsockname()[1]
        start_processes(run_rank, (processes, port, folder, cases), nprocs=processes, start_method="fork")


if __name__ == "__main__":
    main(
        Path(sys.argv[1]),
        [(processes, [Case(**case) for case in cases]) for processes, cases in json.loads(sys.argv[2])],
    )
