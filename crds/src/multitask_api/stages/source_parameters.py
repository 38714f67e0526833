"""The parameters of the stages that read what users give: data and base model. None while a fingerprint is missing."""

from __future__ import annotations

from multitask_api.resource import MultiTaskModelSpec, TaskSpec
from multitask_api.stage_io.manifest import Resolved
from multitask_api.stage_io.parameters import BaseParameters, Optimisation, PrepareParameters, TaskDefinition
from multitask_api.uris import is_folder


def prepare_parameters(task: TaskSpec, definition: TaskDefinition, resolved: Resolved) -> PrepareParameters | None:
    """Of the stage that reads the rows of ``task``."""
    fingerprints = {
        str(split): found.fingerprint
        for split, source in task.data.sources.items()
        if (found := resolved.data.get(source.uri)) and found.fingerprint
    }
    if len(fingerprints) < len(task.data.sources):
        return None
    return PrepareParameters(task=definition, data=task.data, fingerprints=fingerprints)


def base_parameters(
    spec: MultiTaskModelSpec, tasks: tuple[TaskDefinition, ...], resolved: Resolved
) -> BaseParameters | None:
    """Of the stage that makes the base model."""
    base, pretraining = spec.base_model, spec.pretraining
    corpus = pretraining.corpus if pretraining else ()
    texts = [resolved.data.get(source.uri) for source in corpus]
    files = resolved.data.get(base.uri) if is_folder(base.uri) else None
    needed = [*texts, files] if is_folder(base.uri) else texts
    if not all(item is not None and item.fingerprint for item in needed):
        return None
    rate = pretraining.learning_rate if pretraining is not None else None
    return BaseParameters(
        uri=base.uri,
        gguf_file=base.gguf_file,
        revision=resolved.revision or base.revision,
        fingerprint=files.fingerprint if files else None,
        pretraining=pretraining,
        corpus_fingerprints=tuple(item.fingerprint for item in texts if item and item.fingerprint),
        tasks=tasks,
        optimisation=Optimisation.of(spec.training, learning_rate=rate),
        tuning=None if spec.tuning.method == "Full" else spec.tuning,
    )
