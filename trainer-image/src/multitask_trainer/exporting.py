"""Makes the exported bundle: the models that answer, their tasks, and the adapter merged where that is safe."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from multitask_api.bundle import BASE_MODEL, BASELINE, Adapter, Bundle, ServedModel, ServedTask
from multitask_serving.engine.engine import read_bundle
from multitask_trainer.bundling import Part, link_file, link_tree, place_parts, weight_bytes
from multitask_trainer.judging.routing import Choice
from multitask_trainer.merging import merge_adapter
from multitask_trainer.precision import Precision


def assemble_routed(
    folder: Path,
    *,
    evaluated: Path,
    base: Path,
    routed: Sequence[Choice],
    baseline_form: Callable[[str], Path],
    precision: Precision,
    scratch: Path,
) -> Bundle:
    """Put into ``folder`` the mixtures that answer a task and the leftover baselines.

    ``evaluated`` is the bundle that was judged; ``baseline_form`` gives the served form of a baseline's stage. The
    bundle has no revision yet and ``bundle.json`` is not written.
    """
    tasks = {task.name: task for task in read_bundle(evaluated).tasks}
    parts: dict[str, Part] = {}
    part_of = {}
    for choice in routed:
        if choice.served_by == BASELINE and choice.stage is not None:
            part = Part(f"{BASELINE}.{choice.task}", baseline_form(choice.stage))  # a dot is in no group's name
        else:
            task = tasks[choice.task]
            name = task.adapter or task.model
            part = parts.get(name) or Part(name, form_in_bundle(evaluated, task, scratch / name))
        parts[part.name] = part
        part_of[choice.task] = part.name
    placed = place_parts(folder, base, list(parts.values()), precision)
    served = []
    for choice in routed:
        home = placed.homes[part_of[choice.task]]
        where = {"model": home.model, "adapter": home.adapter, "served_by": choice.served_by}
        served.append(tasks[choice.task].model_copy(update=where))
    return Bundle(revision="", models=placed.models, tasks=tuple(served))


def merge_only_adapter(bundle: Bundle, folder: Path, base: Path, precision: Precision) -> Bundle | None:
    """The bundle with the base's one adapter merged into it; None if there is not exactly one.

    The caller has made sure that the adapter answers every task of the base.
    """
    model = next((model for model in bundle.models if model.name == BASE_MODEL), None)
    if model is None or len(model.adapters) != 1:
        return None
    adapter = model.adapters[0]
    path = f"models/{adapter.name}"
    source = folder / adapter.path / "adapter.safetensors"
    merge_adapter(base, source, adapter, folder / path, precision)
    shutil.rmtree(folder / model.path)
    shutil.rmtree(folder / "adapters")
    merged = ServedModel(name=adapter.name, path=path, dtype=model.dtype, bytes=weight_bytes(folder / path))
    tasks = tuple(task.model_copy(update={"model": merged.name, "adapter": None}) for task in bundle.tasks)
    return Bundle(revision="", models=(merged,), tasks=tasks)


def form_in_bundle(folder: Path, task: ServedTask, form: Path) -> Path:
    """The served form (see ``bundling``) of what answers ``task`` in the bundle at ``folder``, as links."""
    model = next(model for model in read_bundle(folder).models if model.name == task.model)
    if task.adapter is None:
        link_tree(folder / model.path, form / "model")
        return form
    adapter: Adapter = next(adapter for adapter in model.adapters if adapter.name == task.adapter)
    link_file(folder / adapter.path / "adapter.safetensors", form / "adapter.safetensors")
    settings = {"rank": adapter.rank, "scaling": adapter.scaling}
    (form / "adapter.json").write_text(json.dumps(settings), "utf-8")
    return form
