"""What plans print of memory, time and GPU-hours, for each training stage and in all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from multitask_api.errors import UserError
from multitask_api.estimates.fitting import CLOSE, Fitted
from multitask_api.machine.gpu_models import GIB, GpuModel, known_names, near_names, sold_gpu
from multitask_api.resource.training import Training
from multitask_operator.commands.console import print_line, table
from multitask_operator.formatting import duration
from multitask_operator.planner.estimate import Estimate
from multitask_operator.planner.stage_costs import StageCost
from multitask_operator.planner.stage_memory import Device

UNKNOWN_TIME = "how long is not known before a stage has measured tokens/s"
NOT_COUNTED = (
    "on top come the start of each stage (seconds to a minute, in a cluster with the start of a pod), validations,"
    " evaluation, export and verification; in runs of few steps they take most of the time"
)
_DASH = "–"


def device_of(gpu: GpuModel) -> Device:
    """A GPU as what stages train on."""
    return Device(gpu.name, gpu.memory, is_gpu=True, flops=gpu.flops, has_bf16=gpu.has_bf16, is_too_old=gpu.is_too_old)


def named_device(name: str) -> Device:
    """The GPU that a user names. Raises UserError if it is not known."""
    gpu = sold_gpu(name)
    if gpu is None:
        near = ", ".join(near_names(name)) or f"{known_names()}, A100-40GB"
        raise UserError(f"--gpu {name}: not a GPU that is known here; write one of {near}, or its memory, such as 24GB")
    return device_of(gpu)


def in_cluster(gpu: Device, training: Training) -> Device:
    """``gpu`` as a training in a cluster has it: as many as its pods have together."""
    return replace(gpu, gpus=training.nodes * max(1, training.gpus_per_node))


def print_costs(cost: Estimate) -> None:
    """Print the table of the training that is left, and what its figures are from."""
    if not cost.stages:
        return
    columns = ["training left", "stages", "steps", "tokens", "micro-batch (tokens)", "memory", "time"]
    on_gpu = cost.device is not None and cost.device.is_gpu
    rows = [[*_row(stage), *([_hours(stage.gpu_seconds)] if on_gpu else [])] for stage in cost.stages]
    total = ["total", "", f"{cost.steps:,}", f"{cost.tokens:,}", "", "", _time(cost.seconds)]
    rows.append([*total, *([_hours(cost.gpu_seconds)] if on_gpu else [])])
    columns += ["GPU-hours"] if on_gpu else []
    table("", columns, rows, right=columns[1:])
    for line in _sources(cost):
        print_line(line)


def cost_text(cost: Estimate) -> str:
    """An upper bound of the training that is left, in words."""
    if cost.steps == 0:
        return "none"
    bounds = f"at most {cost.steps:,} steps, {cost.rows:,} rows, {cost.tokens:,} tokens"
    if not cost.fits and cost.device is not None and cost.device.is_gpu:
        return f"{bounds}; no time: not all of it fits the GPU"
    if cost.seconds is None:
        return f"{bounds}; {UNKNOWN_TIME}"
    if cost.speed is None:
        return f"{bounds}; about {_time(cost.seconds)}, one training after the other"
    speed = f"{cost.speed.tokens_per_second:,.0f} tokens/s ({cost.speed.source})"
    return f"{bounds}; about {_time(cost.seconds)} at {speed}, one training after the other"


def costs_to_json(cost: Estimate) -> dict[str, object]:
    """As ``mtm plan --output json`` prints it."""
    return {
        "atMostSteps": cost.steps,
        "atMostRows": cost.rows,
        "atMostTokens": cost.tokens,
        "tokensFrom": cost.lengths,
        "atMostSeconds": None if cost.seconds is None else round(cost.seconds),
        "tokensPerSecond": round(cost.speed.tokens_per_second) if cost.speed else None,
        "speedFrom": cost.speed.source if cost.speed else None,
        "device": {"name": cost.device.name, "bytes": cost.device.memory, "gpus": cost.device.gpus}
        if cost.device
        else None,
        "stages": [_to_json(stage) for stage in cost.stages],
    }


def _to_json(stage: StageCost) -> dict[str, object]:
    fitted = stage.fitted
    return {
        "name": stage.name,
        "stages": stage.stages,
        "atMostSteps": stage.steps,
        "atMostTokens": stage.tokens,
        "atMostSeconds": None if stage.seconds is None else round(stage.seconds),
        "tokensPerSecond": round(stage.speed.tokens_per_second) if stage.speed else None,
        "speedFrom": stage.speed.source if stage.speed else None,
        "memory": None
        if fitted is None
        else {
            "microBatchTokens": fitted.tokens,
            "gradientCheckpointing": fitted.checkpointing,
            "fits": fitted.fits,
            "close": fitted.close,
            "gpusThatDivideWeights": fitted.gpus,
            "trainedTogether": fitted.runs,
            "weights": fitted.memory.weights,
            "gradients": fitted.memory.gradients,
            "optimizer": fitted.memory.optimizer,
            "activations": fitted.memory.activations,
            "loss": fitted.memory.loss,
            "bytes": fitted.memory.total,
        },
    }


def _row(stage: StageCost) -> list[str]:
    fitted = stage.fitted
    micro_batch = memory = _DASH
    if fitted is not None:
        micro_batch = f"{fitted.tokens:,}" + (" twice" if fitted.checkpointing else "")
        divided = " each, weights divided" if fitted.gpus > 1 else ""
        memory = f"{fitted.memory.total / GIB:.1f} GiB{divided}{_runs(stage, fitted)}" + _verdict(fitted)
    return [
        stage.name, f"{stage.stages:,}", f"{stage.steps:,}", f"{stage.tokens:,}", micro_batch, memory,
        _time(stage.seconds),
    ]  # fmt: skip


def _runs(stage: StageCost, fitted: Fitted) -> str:
    """How many runs the memory is of, where a process has several."""
    if stage.together == 1:
        return ""
    return f" for {fitted.runs} together" if fitted.runs > 1 else f" each, {stage.together} together do not fit"


def _verdict(fitted: Fitted) -> str:
    """Whether it fits, where that is not plain."""
    if not fitted.fits:
        return ", does not fit"
    return ", fits, close" if fitted.close else ""


def _sources(cost: Estimate) -> Iterator[str]:
    """Where memory and time are from, and what part of both the baselines are."""
    if cost.device is not None and any(stage.fitted for stage in cost.stages):
        twice = any(stage.fitted.checkpointing for stage in cost.stages if stage.fitted)
        close = any(stage.fitted.close for stage in cost.stages if stage.fitted)
        note = "; twice: activations are computed twice (gradient checkpointing)" if twice else ""
        note += f"; close: within {CLOSE:.0%} of the memory even with one sequence at a time" if close else ""
        gpus = f"each of {cost.device.gpus} × " if cost.device.gpus > 1 else ""
        if cost.device.is_gpu and not cost.device.has_bf16:
            yield f"precision: fp32, because {cost.device.name} has no bf16; training.precision says what is served"
        if cost.device.is_too_old:
            yield f"warning: PyTorch has no kernels for {cost.device.name} in its builds for CUDA 13, which images have"
        yield (
            f"memory: estimated, of the {cost.device.memory / GIB:.1f} GiB of {gpus}{cost.device.name}, with rows of"
            f" training.maxLength; a micro-batch is as large as fits{note}"
        )
    if cost.lengths:
        yield f"tokens: {cost.lengths}"
    speeds = dict.fromkeys(stage.speed.source for stage in cost.stages if stage.speed)
    if speeds:
        yield f"time: if no stage ends early, one training after the other; tokens/s {' and '.join(speeds)}"
    yield NOT_COUNTED
    baselines = [stage for stage in cost.stages if stage.name == "baseline"]
    if baselines and cost.tokens:
        yield f"the baselines are {sum(stage.tokens for stage in baselines) / cost.tokens:.0%} of the tokens"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return _DASH
    return "< 1 s" if 0 < seconds < 1 else duration(seconds)


def _hours(gpu_seconds: float | None) -> str:
    if gpu_seconds is None:
        return _DASH
    hours = gpu_seconds / 3600
    return "< 0.01" if 0 < hours < 0.01 else f"{hours:.2f}" if hours < 10 else f"{hours:,.0f}"
