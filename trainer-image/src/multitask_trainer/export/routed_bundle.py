"""Makes the exported bundle: the routed models, their tasks, and the adapter merged where that is safe."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from multitask_api.bundle import BASE_MODEL, BASELINE, Adapter, Bundle, ServedModel, ServedTask
from multitask_serving.engine.engine import read_bundle
from multitask_trainer.base_model.loading import Precision
from multitask_trainer.evaluation.routing import RoutingDecision
from multitask_trainer.export.bundle import (
    ServableWeights,
    place_servables,
    with_forward_path,
    write_bundle,
)
from multitask_trainer.export.merging import merge_adapter
from multitask_trainer.export.weights import link_file, link_tree, weight_bytes


def assemble_routed_bundle(
    folder: Path,
    *,
    evaluated: Path,
    base: Path,
    routed: Sequence[RoutingDecision],
    baseline_servable: Callable[[str], Path],
    precision: Precision,
    scratch: Path,
) -> Bundle:
    """Put into ``folder`` the mixtures that answer a task and the leftover baselines.

    ``evaluated`` is the bundle that was evaluated; ``baseline_servable`` gives the servable weights of a baseline's
    stage. The bundle has no revision yet and ``bundle.json`` is not written.
    """
    tasks = {task.name: task for task in read_bundle(evaluated).tasks}
    servables: dict[str, ServableWeights] = {}
    servable_of = {}
    for decision in routed:
        if decision.served_by == BASELINE and decision.stage is not None:
            # No group's name has a dot.
            servable = ServableWeights(f"{BASELINE}.{decision.task}", baseline_servable(decision.stage))
        else:
            task = tasks[decision.task]
            name = task.adapter or task.model
            servable = servables.get(name) or ServableWeights(name, extract_servable(evaluated, task, scratch / name))
        servables[servable.name] = servable
        servable_of[decision.task] = servable.name
    placed = place_servables(folder, base, list(servables.values()), precision)
    served = []
    for decision in routed:
        placement = placed.placements[servable_of[decision.task]]
        updates = {"model": placement.model, "adapter": placement.adapter, "served_by": decision.served_by}
        served.append(tasks[decision.task].model_copy(update=updates))
    return Bundle(revision="", models=placed.models, tasks=tuple(served))


def merge_only_adapter(bundle: Bundle, folder: Path, base: Path, precision: Precision, target: Path) -> Bundle | None:
    """The bundle with the base's one adapter merged into it, written to ``target``; None if there is not exactly one.

    It has no revision yet.
    The caller has made sure that the adapter answers every task of the base. Raises `MergeChangesModel`.
    """
    model = next((model for model in bundle.models if model.name == BASE_MODEL), None)
    if model is None or len(model.adapters) != 1:
        return None
    adapter = model.adapters[0]
    path = f"models/{adapter.name}"
    merge_adapter(base, folder, adapter, target / path, precision)
    model = ServedModel(name=adapter.name, path=path, dtype=model.dtype, bytes=weight_bytes(target / path))
    model = with_forward_path(model, base)
    tasks = tuple(task.model_copy(update={"model": model.name, "adapter": None}) for task in bundle.tasks)
    merged = Bundle(revision="", models=(model,), tasks=tasks)
    write_bundle(target, merged)
    return merged


def extract_servable(folder: Path, task: ServedTask, target: Path) -> Path:
    """Link the servable weights (see ``bundle``) that answer ``task`` in the bundle at ``folder`` into ``target``."""
    model = next(model for model in read_bundle(folder).models if model.name == task.model)
    if task.adapter is None:
        link_tree(folder / model.path, target / "model")
        return target
    adapter: Adapter = next(adapter for adapter in model.adapters if adapter.name == task.adapter)
    link_file(folder / adapter.path / "adapter.safetensors", target / "adapter.safetensors")
    settings = {"rank": adapter.rank, "scaling": adapter.scaling}
    (target / "adapter.json").write_text(json.dumps(settings), "utf-8")
    return target
