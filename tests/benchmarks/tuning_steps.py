"""Seconds of a training step of every arm of ``tuning_methods.py``, in turns in one process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence

import torch
from tuning_arms import FIRST_RATE, Arm, Setting, method_of

from multitask_api.estimates.fitting import CPU_TOKENS
from multitask_trainer.base_model.loading import load_base, load_tokenizer, read_forward_path, read_prompt_format
from multitask_trainer.data.rows import read_rows
from multitask_trainer.training.accelerator import make_accelerator
from multitask_trainer.training.batching.dataset import TaskEncoder
from multitask_trainer.training.batching.sampler import Sampler
from multitask_trainer.training.batching.task_batches import TaskBatches
from multitask_trainer.training.loss_meter import LossMeter
from multitask_trainer.training.optimizer import OptimizerStep, TrainingSettings

WARM_UP = 2


def step_seconds(arms: Sequence[Arm], setting: Setting, rounds: int) -> Mapping[str, float]:
    """Arm → the median over ``rounds`` steps, on one thread. Every round all arms take the same rows, one after the
    other, and each round begins with another one. An arm of one model a task is not among them: its steps are LoRA's.
    """
    timed = [arm for arm in arms if not arm.one_model_a_task]
    batches = _batches(setting)
    steps = {arm.name: _step(arm, setting) for arm in timed}
    seconds: dict[str, list[float]] = {arm.name: [] for arm in timed}
    for number in range(WARM_UP + rounds):
        first = number % len(timed)
        for arm in timed[first:] + timed[:first]:
            step, meter = steps[arm.name]
            begun = time.perf_counter()
            step.run(batches.at(number), batches.present(number), rate=FIRST_RATE, meter=meter)
            if number >= WARM_UP:
                seconds[arm.name].append(time.perf_counter() - begun)
    return {name: statistics.median(each) for name, each in seconds.items()}


def _batches(setting: Setting) -> TaskBatches:
    base = setting.inputs["base"] / "model"
    max_length = setting.optimisation(FIRST_RATE, 1, 1).max_length
    tokenizer, prompt_format = load_tokenizer(base), read_prompt_format(base)
    datasets = [
        TaskEncoder.of(task, tokenizer, max_length=max_length, chat_template=False, prompt_format=prompt_format).encode(
            read_rows(setting.inputs[f"prepare/{task.name}"], "train")
        )
        for task in setting.tasks
    ]
    names = [task.name for task in setting.tasks]
    rows = {name: len(dataset) for name, dataset in zip(names, datasets, strict=True)}
    sampler = Sampler(setting.probabilities, rows, batch_rows=setting.batch_rows, seed=1)
    return TaskBatches(sampler, datasets, setting.batch_rows, CPU_TOKENS, pack=False)


def _step(arm: Arm, setting: Setting) -> tuple[OptimizerStep, LossMeter]:
    accelerator = make_accelerator(device="cpu", threads=1, precision="fp32")
    base = setting.inputs["base"] / "model"
    method = method_of(arm, setting.tasks)
    torch.manual_seed(1)
    model = method.prepare(load_base(base))
    settings = TrainingSettings(10**6, setting.optimisation(FIRST_RATE, 1, 100))
    path = read_forward_path(base)
    step = OptimizerStep(model, settings, method=method, accelerator=accelerator, path=path)
    step.loss.train()
    return step, LossMeter(accelerator)
