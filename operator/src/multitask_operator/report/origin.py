"""Where the figures of a report come from: base model, data, machines. Pure."""

from __future__ import annotations

from multitask_api.report import ReportMachine
from multitask_api.resource import MultiTaskModel
from multitask_api.stage_io.parameters import BaseParameters
from multitask_api.stage_io.results import BaseResult
from multitask_api.stages import Graph


def base_model(model: MultiTaskModel, graph: Graph) -> str:
    """The address of the base model, with the revision that the run uses."""
    base = model.spec.base_model
    uri = f"{base.uri.rstrip('/')}/{base.gguf_file}" if base.gguf_file else base.uri
    parameters = graph["base"].parameters
    revision = parameters.revision if isinstance(parameters, BaseParameters) else None
    return f"{uri} at {revision}" if revision and uri.startswith("hf://") else uri


def base_parameters(graph: Graph) -> int | None:
    """The number of weights of the base model."""
    manifest = graph["base"].manifest
    return BaseResult.model_validate(manifest.result).parameters if manifest else None


def data_folders(model: MultiTaskModel) -> list[str]:
    """The folders of all splits of all tasks, each once."""
    sources = [source for task in model.spec.tasks for source in task.data.sources.values()]
    return list(dict.fromkeys(_folder(source.uri) for source in sources))


def machines(graph: Graph) -> list[ReportMachine]:
    """The machines that answered the test rows, each once."""
    environments = [node.manifest.environment for node in graph.of_kind("evaluate") if node.manifest is not None]
    found = [
        ReportMachine(
            host=item.get("host", "unknown"),
            cpus=int(item["cpus"]) if item.get("cpus", "").isdigit() else None,
            threads=int(item["threads"]) if item.get("threads", "").isdigit() else None,
            device=item.get("device", "unknown"),
        )
        for item in environments
        if item
    ]
    return list(dict.fromkeys(found))


def _folder(uri: str) -> str:
    """Up to the last slash that does not belong to ``scheme://``; the address itself without one."""
    above, slash, _ = uri.rpartition("/")
    return above if slash and not above.endswith((":", "/")) else uri
