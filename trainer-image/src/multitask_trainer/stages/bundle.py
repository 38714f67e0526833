"""Stage ``bundle``: the mixtures of all groups as servable weights in their final dtype, in one bundle."""

from __future__ import annotations

from pathlib import Path

from multitask_api.bundle import Bundle
from multitask_api.stage_io.parameters import BundleParameters, TaskDefinition
from multitask_api.stage_io.results import BundleResult
from multitask_api.stages.digests import digest
from multitask_trainer.export.bundle import ServableWeights, TaskBinding, assemble_bundle, bundle_revision, write_bundle
from multitask_trainer.runtime.context import StageContext, StageOutcome
from multitask_trainer.runtime.runner import main
from multitask_trainer.storage.files import content_digest
from multitask_trainer.tuning import tuning_method


def work(stage: StageContext) -> StageOutcome:
    """Write each group's servable weights and assemble them below ``bundle/``."""
    parameters = stage.parameters(BundleParameters)
    base = stage.input("base") / "model"
    definitions = {task.name: task for task in parameters.tasks}
    servables: dict[str, ServableWeights] = {}
    bindings = []
    for group, names in parameters.groups.items():
        stage.reporter.report(f"servable weights of {group}")
        by_task = _servables(stage, parameters, group, [definitions[name] for name in names])
        servables |= {servable.name: servable for servable in by_task.values()}
        bindings += [TaskBinding(definitions[name], by_task[name].name, served_by=group) for name in names]
    folder = stage.artifact_folder / "bundle"
    bundle = assemble_bundle(
        folder,
        base=base,
        servables=list(servables.values()),
        tasks=bindings,
        precision=parameters.precision,
        max_length=parameters.max_length,
        chat_template=parameters.chat_template,
        revision="",
    )
    bundle = bundle.model_copy(update={"revision": bundle_revision(folder, bundle.models, bundle.tasks)})
    write_bundle(folder, bundle)
    outputs = {f"group/{group}": _group_digest(folder, bundle, group) for group in parameters.groups}
    result = BundleResult(models={model.name: model.bytes for model in bundle.models})
    return StageOutcome(result, outputs | {"bundle": bundle.revision})


def _servables(
    stage: StageContext, parameters: BundleParameters, group: str, tasks: list[TaskDefinition]
) -> dict[str, ServableWeights]:
    """Task → the weights that answer it; tasks with the same `TuningMethod.servable_key` share them.

    In the place of a mixture of one task stands its baseline, with the weights that it was evaluated with.
    """
    trained = stage.input(f"mixture/{group}")
    if (trained / "served").is_dir():
        return {task.name: ServableWeights(group, trained / "served") for task in tasks}
    names = [task.name for task in tasks]
    method = tuning_method(parameters.tuning.for_group(names), names)
    weights = trained / "weights"
    keys = {task.name: method.servable_key(task.name) for task in tasks}
    shared = len(set(keys.values())) == 1
    servables: dict[str, ServableWeights] = {}
    for task in tasks:
        name = group if shared else f"{group}.{keys[task.name]}"
        folder = stage.scratch_folder / "servables" / name
        if all(servable.name != name for servable in servables.values()):
            method.write_servable(stage.input("base") / "model", weights, task.name, folder, parameters.precision)
        servables[task.name] = ServableWeights(name, folder)
    return servables


def _group_digest(folder: Path, bundle: Bundle, group: str) -> str:
    """Covers the files and descriptions that answer the group's tasks, and nothing of other groups."""
    tasks = [task for task in bundle.tasks if task.served_by == group]
    models = [model for model in bundle.models if any(task.model == model.name for task in tasks)]
    used = {task.adapter for task in tasks}
    adapters = [adapter for model in models for adapter in model.adapters if adapter.name in used]
    paths = [model.path for model in models] + [adapter.path for adapter in adapters]
    settings = [adapter.to_json() for adapter in adapters]
    return digest(
        {"files": content_digest(folder, paths), "adapters": settings, "tasks": [task.to_json() for task in tasks]}
    )


if __name__ == "__main__":
    raise SystemExit(main(work))
