"""One combination of `training_speed.py`: the steps of our trainer, those of HF Trainer + PEFT, or both by turns.

Both train the same random base with the same new adapter on the same global batches, with AdamW, clipping and a
constant learning rate; HF Trainer gets our loss, the mean over rows, through ``compute_loss_func``.
"""

from __future__ import annotations

import gc
import resource
from importlib.metadata import version
from typing import Any

import torch

from support.training_speed.bases import SpeedRows, StepSize, model_flops
from support.training_speed.combination import Combination, Deadline, Measured, allocated, memory_settings, total_memory
from support.training_speed.hf_trainer import try_trainer
from support.training_speed.ours import OurSide


def measure(combination: Combination, *, sides: tuple[str, ...], folder: str) -> dict[str, Any]:
    """All that `training_speed.py` prints of a combination, but the memory of a CPU's processes.

    ``sides`` are ``ours`` and ``trainer``, or one of them. Where the memory holds both, they take turns step by step;
    else HF Trainer comes after our side, which is gone by then.
    """
    rows = combination.rows()
    measured = _by_turns(combination, rows, folder) if set(sides) == {"ours", "trainer"} else None
    by_turns = measured is not None
    if measured is None:
        _free(combination.device)
        measured = _one_after_the_other(combination, rows, sides, folder)
    warmup = combination.warmup
    counted = min((len(side.losses) for side in measured.values() if not side.out_of_memory), default=0)
    size = sum((StepSize.of(rows.at(step)) for step in range(warmup, counted)), start=StepSize(0, 0, 0))
    trained = max(side.trained for side in measured.values())
    return {
        "combination": vars(combination),
        "settings": {name: str(value) for name, value in vars(memory_settings(combination)).items()},
        "by_turns": by_turns,
        "steps": max(0, counted - warmup),
        "tokens": size.tokens,
        "targets": size.targets,
        "flops": model_flops(combination.shape, size, trained=trained, full=combination.method == "Full"),
        "rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10,
        "device_name": "cpu" if combination.device == "cpu" else torch.cuda.get_device_name(),
        "versions": {name: version(name) for name in ("torch", "transformers", "peft", "accelerate")},
        **{side: vars(values) for side, values in measured.items()},
    }


def _by_turns(combination: Combination, rows: SpeedRows, folder: str) -> dict[str, Measured] | None:
    """A step of HF Trainer, then one of ours; None if the memory does not hold both sides."""
    if 2 * combination.least_bytes > total_memory(combination.device):
        return None
    warmup = combination.warmup
    measured = {"ours": Measured(), "trainer": Measured()}
    ours = OurSide(combination, rows, measured["ours"])
    ours.run_alone(warmup, Deadline(combination.seconds))
    if not ours.leaves_room():
        return None
    idle = allocated(combination.device)
    deadline = Deadline(combination.seconds)

    def our_turn(step: int, own: float) -> bool:
        """Once both are warm."""
        if step > warmup:
            ours.run(own)
        return deadline.passed and step > warmup

    done = try_trainer(combination, rows, measured["trainer"], between=our_turn, others=idle, folder=folder)
    return measured if done else None


def _one_after_the_other(
    combination: Combination, rows: SpeedRows, sides: tuple[str, ...], folder: str
) -> dict[str, Measured]:
    """Each side alone in memory, with an equal share of the time."""
    measured = {side: Measured() for side in sides}
    seconds = combination.seconds / len(sides)
    if "ours" in sides:
        ours = OurSide(combination, rows, measured["ours"])
        ours.run_alone(combination.warmup + combination.steps, Deadline(seconds))
        ours.close()
        _free(combination.device)
    if "trainer" in sides:
        deadline = Deadline(seconds)

        def is_over(step: int, _own: float) -> bool:
            return deadline.passed and step > combination.warmup

        try_trainer(combination, rows, measured["trainer"], between=is_over, others=0.0, folder=folder)
    return measured


def _free(device: str) -> None:
    gc.collect()
    if device != "cpu":
        torch.cuda.empty_cache()
