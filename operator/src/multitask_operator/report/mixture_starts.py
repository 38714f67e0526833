"""How the mixtures with ``start: Previous`` began, and warm against cold in rows until the bar. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from multitask_api.report import ReportGroup, ReportStart
from multitask_api.stage_io.manifest import Manifest
from multitask_api.stage_io.parameters import TrainParameters
from multitask_api.stage_io.results import TrainResult
from multitask_api.stages import Node
from multitask_operator.formatting import counted
from multitask_operator.planner import training_result_of

NO_COLD_RUN = (
    "storage has no mixture of the same inputs that started cold; a run without stages.mixture.start trains one, and"
    " the next run with it compares the two"
)


def mixture_start(node: Node, threshold: float) -> ReportStart | None:
    """The start of a mixture; None without ``start: Previous``. ``threshold``: see `ReportStart.rows_to_bar`."""
    if node.start is None:
        return None
    result = training_result_of(node)
    if node.start.key is None or result is None or not isinstance(node.parameters, TrainParameters):
        return ReportStart(reason=node.start.reason, digest=node.start.key[1] if node.start.key else None)
    cold = _cold_rows_to_bar(node.start.cold, node.parameters, threshold)
    return ReportStart(
        reason=node.start.reason,
        digest=node.start.key[1],
        rows_before=sum(result.start.rows_given.values()) if result.start else None,
        rows_to_bar=_rows_to_bar(result, node.parameters, threshold),
        cold_rows_to_bar=cold,
    )


def start_lines(group: ReportGroup) -> Iterator[str]:
    """What the report says of a group's start, a line each."""
    start = group.start
    if start is None:
        return
    yield f"the mixture {start.reason}"
    if start.digest is None or not start.rows_to_bar:
        return
    if start.rows_before is not None:
        yield f"it was given {counted(start.rows_before, 'row')} before this run"
    if start.cold_rows_to_bar is None:
        yield NO_COLD_RUN
    for task in group.tasks:
        warm = _until_the_bar(start.rows_to_bar, task)
        cold = "" if start.cold_rows_to_bar is None else f"; cold {_until_the_bar(start.cold_rows_to_bar, task)}"
        yield f"rows of the group until {task} was at the bar: {warm}{cold}"


def _until_the_bar(rows: dict[str, int], task: str) -> str:
    return f"{rows[task]:,}" if task in rows else "never"


def _cold_rows_to_bar(
    cold: tuple[Manifest, ...], parameters: TrainParameters, threshold: float
) -> dict[str, int] | None:
    if not cold:
        return None
    *before, mixture = (TrainResult.model_validate(manifest.result) for manifest in cold)
    stage2 = sum(sum(result.rows_given.values()) for result in before)
    return {task: stage2 + rows for task, rows in _rows_to_bar(mixture, parameters, threshold).items()}


def _rows_to_bar(result: TrainResult, parameters: TrainParameters, threshold: float) -> dict[str, int]:
    batch = parameters.optimisation.batch_rows
    rows: dict[str, int] = {}
    for point in result.curve:
        for task, baseline in parameters.reference_scores.items():
            if task in point.tasks and point.tasks[task].score >= threshold * baseline:
                rows.setdefault(task, point.step * batch)
    return rows
