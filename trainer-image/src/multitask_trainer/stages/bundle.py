"""Stage ``bundle``: the mixtures of all groups in the form and dtype in which they are served, in one bundle."""

from __future__ import annotations

from pathlib import Path

from multitask_api.bundle import Bundle
from multitask_api.stage_io.parameters import BundleParameters, TaskDefinition
from multitask_api.stage_io.results import BundleResult
from multitask_api.stages.digests import digest
from multitask_trainer.bundling import Part, TaskUse, assemble, revision_of, write_bundle
from multitask_trainer.stage import Outcome, Stage, run
from multitask_trainer.storage import content_digest
from multitask_trainer.tuning import method


def work(stage: Stage) -> Outcome:
    """Ask the tuning method for each group's served forms and assemble them below ``bundle/``."""
    parameters = stage.parameters(BundleParameters)
    base = stage.input("base") / "model"
    definitions = {task.name: task for task in parameters.tasks}
    parts: dict[str, Part] = {}
    uses = []
    for group, names in parameters.groups.items():
        stage.reporter.report(f"served form of {group}")
        found = _forms(stage, parameters, group, [definitions[name] for name in names])
        parts |= {part.name: part for part in found.values()}
        uses += [TaskUse(definitions[name], found[name].name, served_by=group) for name in names]
    folder = stage.folder / "bundle"
    bundle = assemble(
        folder,
        base=base,
        parts=list(parts.values()),
        tasks=uses,
        precision=parameters.precision,
        max_length=parameters.max_length,
        chat_template=parameters.chat_template,
        revision="",
    )
    bundle = bundle.model_copy(update={"revision": revision_of(folder, bundle.models, bundle.tasks)})
    write_bundle(folder, bundle)
    outputs = {f"group/{group}": _group_digest(folder, bundle, group) for group in parameters.groups}
    result = BundleResult(models={model.name: model.bytes for model in bundle.models})
    return Outcome(result, outputs | {"bundle": bundle.revision})


def _forms(stage: Stage, parameters: BundleParameters, group: str, tasks: list[TaskDefinition]) -> dict[str, Part]:
    """Task → its part; tasks whose form is the same share one."""
    tuned = method(parameters.tuning)
    weights = stage.input(f"mixture/{group}") / "weights"
    keys = {task.name: tuned.form_key(task.name) for task in tasks}
    shared = len(set(keys.values())) == 1
    parts: dict[str, Part] = {}
    for task in tasks:
        name = group if shared else f"{group}.{keys[task.name]}"
        form = stage.scratch / "forms" / name
        if all(part.name != name for part in parts.values()):
            tuned.served_form(stage.input("base") / "model", weights, task.name, form, parameters.precision)
        parts[task.name] = Part(name, form)
    return parts


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
    raise SystemExit(run(work))
