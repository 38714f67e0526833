"""The cores and the memory that a running stage needs."""

from __future__ import annotations

from dataclasses import dataclass

from multitask_api.estimates.memory import TRAINED_BYTES
from multitask_api.resource import MultiTaskModelSpec
from multitask_api.stage_io.results import BaseResult
from multitask_api.stages import Graph, Node
from multitask_operator.planner.stage_memory import Device, fitted, training_of

#: Resident bytes of a process with the runtime loaded and nothing else (measured: torch and transformers on CPU).
RUNTIME_BYTES = 700 * 1024**2
#: Bytes that a weight takes where nothing is trained, or on a GPU: the weight in fp32, and a copy.
_LOADED = 8
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
    return Cost(threads(node.kind, capacity, len(spec.tasks)), RUNTIME_BYTES + _of_model(node, graph, spec, capacity))


def _of_model(node: Node, graph: Graph, spec: MultiTaskModelSpec, capacity: Capacity) -> int:
    """Bytes of the machine's memory for the model and its training: estimated as in plans, or by the number of weights
    where the base's shape is not known. On a GPU training takes the GPU's memory.
    """
    base = graph["base"].manifest if "base" in graph else None
    if base is None or node.kind in SMALL:
        return 0
    result = BaseResult.model_validate(base.result)
    if node.kind not in TRAINING or capacity.gpus:
        return result.parameters * _LOADED
    training = training_of(node, graph, spec)
    if result.shape is None:
        return result.parameters * (TRAINED_BYTES if training.tuning.method == "Full" else _LOADED)
    machine = Device("this machine", capacity.memory, is_gpu=False)
    return fitted(spec, training, result.shape, machine).memory.total
