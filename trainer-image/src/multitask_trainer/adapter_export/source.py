"""What an exported result has to give to another engine: its base, its adapters, and the tasks that use them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from multitask_api.bundle import Bundle, ServedModel, ServedTask
from multitask_api.errors import UserError
from multitask_serving.engine.engine import read_bundle
from multitask_serving.engine.model.adapters import LoraWeights
from multitask_serving.engine.model.loading import read_adapter


@dataclass(frozen=True)
class SourceAdapter:
    """One adapter, under the name of its task, or its own name where several tasks share it."""

    name: str
    tasks: tuple[ServedTask, ...]
    weights: LoraWeights
    """Linear layer → A (r, in) and B (out, r), fp32, the scaling folded into B."""

    @property
    def rank(self) -> int:
        """The largest rank of a layer."""
        return max(a.shape[0] for a, _ in self.weights.values())


@dataclass(frozen=True)
class Source:
    """``base`` is a transformers folder."""

    model: str
    revision: str
    base: Path
    adapters: tuple[SourceAdapter, ...]


def read_source(artifact: Path) -> Source:
    """Read the exported artifact ``artifact`` (``bundle/`` and ``routes.yaml``).

    Raises `UserError` for a result whose tasks are not all answered by adapters of linear layers.
    """
    folder = artifact / "bundle"
    bundle = read_bundle(folder)
    model = _adapted_model(folder, bundle)
    used: dict[str, list[ServedTask]] = {}
    for task in bundle.tasks:
        if task.adapter is not None:
            used.setdefault(task.adapter, []).append(task)
    adapters = []
    for adapter in model.adapters:
        if adapter.name not in used:
            continue
        weights = read_adapter(folder, adapter)
        _check_layers(adapter.name, weights)
        tasks = used[adapter.name]
        adapters.append(SourceAdapter(tasks[0].name if len(tasks) == 1 else adapter.name, tuple(tasks), weights))
    return Source(_model_name(artifact), bundle.revision, (folder / model.path).resolve(), _distinct(adapters))


def _adapted_model(folder: Path, bundle: Bundle) -> ServedModel:
    whole = [task for task in bundle.tasks if task.adapter is None]
    if not whole:
        return next(model for model in bundle.models if model.name == bundle.tasks[0].model)
    paths = {model.name: (folder / model.path).resolve() for model in bundle.models}
    of_model: dict[str, list[str]] = {}
    for task in whole:
        of_model.setdefault(task.model, []).append(task.name)
    listed = "; ".join(f"{', '.join(tasks)}: {paths[name]}" for name, tasks in of_model.items())
    raise UserError(
        f"there is no adapter to export for some tasks, because whole models answer them ({listed}): they were trained"
        " with tuning.method Full, or an adapter that was the only one is merged into its base. Such a folder is a"
        " complete transformers model, which other engines take as it is: `vllm serve FOLDER`"
    )


def _check_layers(name: str, weights: LoraWeights) -> None:
    stacked = [path for path, (a, _) in weights.items() if a.ndim == 3]
    if stacked:
        raise UserError(
            f"adapter {name!r} changes stacked weights of experts ({stacked[0]}), which have no form that other engines"
            " share. Train with tuning.targetModules that names linear layers only, such as those of the attention"
        )


def _distinct(adapters: list[SourceAdapter]) -> tuple[SourceAdapter, ...]:
    """A task may be called like the adapter of others: names are those of URLs and folders, so each is used once."""
    taken: Mapping[str, SourceAdapter] = {adapter.name: adapter for adapter in adapters}
    if len(taken) < len(adapters):
        raise UserError(
            "a task has the name of an adapter that other tasks share "
            f"({', '.join(sorted(adapter.name for adapter in adapters))}). Rename the task, or its group"
        )
    return tuple(adapters)


def _model_name(artifact: Path) -> str:
    try:
        name = yaml.safe_load((artifact / "routes.yaml").read_text("utf-8"))["metadata"]["name"]
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise UserError(
            f"{artifact}/routes.yaml cannot be read ({error}). Give a folder that `mtm run` exported"
        ) from error
    return str(name)
