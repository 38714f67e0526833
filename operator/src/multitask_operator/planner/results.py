"""The verdicts and the export in a graph's manifests."""

from __future__ import annotations

from multitask_api.stage_io.results import EvaluateResult, ExportResult, TaskVerdict
from multitask_api.stages import Graph


def verdicts_of(graph: Graph) -> dict[str, TaskVerdict]:
    """Task → verdict, of every group that is judged."""
    return {
        verdict.task: verdict
        for node in graph.of_kind("evaluate")
        if node.manifest is not None
        for verdict in EvaluateResult.model_validate(node.manifest.result).tasks
    }


def export_of(graph: Graph) -> ExportResult | None:
    """The result of the export, once there is one."""
    manifest = graph["export"].manifest
    return ExportResult.model_validate(manifest.result) if manifest else None
