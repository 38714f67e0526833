"""The cores and the memory that a running stage needs."""

from __future__ import annotations

from dataclasses import dataclass

from multitask_api.resource import MultiTaskModelSpec
from multitask_api.stage_io.results import BaseResult
from multitask_api.stages import Graph, Node

#: Resident bytes of a process with the runtime loaded and nothing else (measured: torch and transformers on CPU).
RUNTIME_BYTES = 700 * 1024**2
#: Bytes a trained weight takes: fp32 weight, gradient and two Adam moments; of a frozen one: the weight, and a copy.
TRAINED, FROZEN = 16, 8
#: Kinds that measure or start servers: nothing else may run beside them.
ALONE = frozenset({"verify", "ledger"})
TRAINING = frozenset({"base", "baseline", "high-resource", "mixture", "check"})
#: Kinds that have a GPU of their own while they run, where there are any: they fill its memory, or time on it.
ON_GPU = TRAINING | {"gradients", "evaluate", "export"}
#: Kinds that load no model.
SMALL = ("prepare", "filter", "affinity")


@dataclass(frozen=True)
class Capacity:
    """What a machine has for stages: cores, bytes of memory, processes at once, and the names of its GPUs."""

    cores: int
    memory: int
    processes: int = 1_000
    gpus: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cost:
    """What one stage needs."""

    cores: int
    memory: int


def training_threads(capacity: Capacity, tasks: int) -> int:
    """Threads of a training process: fixed for a machine and a spec, so that results repeat."""
    trainings = min(capacity.cores, capacity.processes, tasks, len(capacity.gpus) or tasks)
    return max(1, capacity.cores // trainings)


def threads(kind: str, capacity: Capacity, tasks: int) -> int:
    """Threads of one process of ``kind``: also of those that run alone, because small models gain nothing from more,
    and on a busy machine threads that wait for each other cost twentyfold (measured).
    """
    if kind in SMALL:
        return 1
    return training_threads(capacity, tasks)


def cost(node: Node, graph: Graph, spec: MultiTaskModelSpec, capacity: Capacity) -> Cost:
    """What ``node`` needs of ``capacity``."""
    cores = threads(node.kind, capacity, len(spec.tasks))
    memory = RUNTIME_BYTES
    base = graph["base"].manifest if "base" in graph else None
    if base is not None and node.kind not in SMALL:
        trained = node.kind in TRAINING and spec.tuning.method == "Full"
        memory += BaseResult.model_validate(base.result).parameters * (TRAINED if trained else FROZEN)
    return Cost(cores, memory)
