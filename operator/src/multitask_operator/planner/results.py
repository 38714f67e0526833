"""The verdicts, the export and what was trained, in a graph's manifests."""

from __future__ import annotations

from multitask_api.stage_io.results import EvaluateResult, ExportResult, TaskVerdict, TrainResult
from multitask_api.stages import Graph, Node


def verdicts_of(graph: Graph) -> dict[str, TaskVerdict]:
    """Task → verdict, of every group that is judged."""
    return {
        verdict.task: verdict
        for node in graph.of_kind("evaluate")
        if node.manifest is not None
        for verdict in EvaluateResult.model_validate(node.manifest.result).tasks
    }


def training_result_of(node: Node) -> TrainResult | None:
    """The result of a baseline, of stage 2 or of stage 3; None for other stages, and until there is one."""
    if node.kind in ("baseline", "high-resource", "mixture") and node.manifest is not None:
        return TrainResult.model_validate(node.manifest.result)
    return None


def export_of(graph: Graph) -> ExportResult | None:
    """The result of the export, once there is one."""
    manifest = graph["export"].manifest
    return ExportResult.model_validate(manifest.result) if manifest else None
