"""One of several processes of a run; started by torchrun. Rank 0 leaves the weights in a file."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from multitask_api.resource.tuning import Tuning
from multitask_api.stage_io.results import TaskPoint
from multitask_trainer.runtime.progress import FileProgressReporter
from multitask_trainer.training.accelerator import make_accelerator
from multitask_trainer.training.batching.dataset import EncodedDataset
from multitask_trainer.training.batching.sampler import Sampler
from multitask_trainer.training.batching.task_batches import TaskBatches
from multitask_trainer.training.checkpoint import CheckpointStore
from multitask_trainer.training.loop import TrainingLoop
from multitask_trainer.training.optimizer import OptimizerStep, TrainingSettings
from multitask_trainer.tuning import tuning_method
from support.training_fixtures import optimisation, small_decoder

METHODS = {"Full": Tuning(method="Full"), "CGCLoRA": Tuning(method="CGCLoRA", rank=8)}
SHARES = {"a": 0.6, "b": 0.35, "c": 0.05}
"""The last task has no row in some steps."""


def main(folder: Path, tuning: str) -> None:
    """Four steps of eight rows of different lengths, of three tasks."""
    accelerator = make_accelerator(device="cpu", threads=1, precision="fp32")
    generator = np.random.default_rng(1)
    prompts = [generator.integers(0, 61, length).tolist() for length in generator.integers(3, 20, 40)]
    examples = EncodedDataset.of(prompts, [prompt[: 1 + row % 3] for row, prompt in enumerate(prompts)])
    batches = TaskBatches(
        sampler=Sampler(SHARES, dict.fromkeys(SHARES, 40), batch_rows=8, seed=1),
        datasets=[examples] * len(SHARES),
        batch_rows=8,
        token_budget=1024,
        pack=False,
        process=accelerator.process_index,
        processes=accelerator.num_processes,
    )
    method = tuning_method(METHODS[tuning], tuple(SHARES))
    model = method.prepare(small_decoder())
    settings = TrainingSettings(4, optimisation(batch_rows=8, eval_every=2, warmup_steps=0))
    loop = TrainingLoop(
        OptimizerStep(model, settings, method=method, accelerator=accelerator),
        batches,
        settings,
        accelerator=accelerator,
        store=CheckpointStore(folder),
        reporter=FileProgressReporter("test", None),
        validate=lambda: {"a": TaskPoint(loss=1.0, score=0.5)},
    )
    progress = loop.run()
    if accelerator.is_main_process:
        weights = {name: value.detach() for name, value in model.named_parameters() if value.requires_grad}
        losses = [point.train_loss for point in progress.curve]
        results = {"processes": accelerator.num_processes, "tokens": progress.tokens, "losses": losses}
        torch.save({"weights": weights, **results}, folder / "out.pt")
    if accelerator.num_processes > 1:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
