"""What a reader should know before trusting the figures of a report. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from multitask_api.report import ReportTask
from multitask_api.resource import MultiTaskModel
from multitask_api.stage_io.overlap import NOTABLE_OVERLAP
from multitask_api.stage_io.results import BaseResult, EvaluateResult, ExportResult, PrepareResult
from multitask_api.stages import Graph, Node
from multitask_api.uris import is_builtin
from multitask_operator.formatting import counted, listed, number
from multitask_operator.planner import training_result_of


def report_warnings(model: MultiTaskModel, graph: Graph, tasks: Iterable[ReportTask]) -> list[str]:
    """The warnings of all stages and tasks; what several of them say alike is one sentence with all their names."""
    warnings = list(model.spec.hints())
    subjects: dict[str, list[str]] = {}
    for node in graph.nodes:
        for text in _of_stage(node):
            subjects.setdefault(text, []).append(node.name)
    for task in tasks:
        for text in _of_task(task):
            subjects.setdefault(text, []).append(task.name)
    warnings += [f"{listed(list(dict.fromkeys(names)))}: {text}" for text, names in subjects.items()]
    warnings += frozen_base_notes(model, graph)
    return list(dict.fromkeys(warnings))


def _of_stage(node: Node) -> Iterator[str]:
    if node.manifest is None:
        return
    result = node.manifest.result
    if node.kind == "prepare":
        prepared = PrepareResult.model_validate(result)
        yield from prepared.warnings
        if prepared.bad_rows:
            yield f"{counted(prepared.bad_rows, 'bad row')} skipped (data.maxBadRows)"
    elif node.kind == "base":
        yield from BaseResult.model_validate(result).warnings
    elif node.kind == "export":
        yield from ExportResult.model_validate(result).warnings
    elif node.kind == "evaluate":
        yield from _truncated(EvaluateResult.model_validate(result).truncated_rows)
    elif (trained := training_result_of(node)) is not None:
        yield from _truncated(trained.truncated_rows)
        if node.kind == "baseline" and trained.still_improving:
            yield "training was still improving at its last step; raise stages.baseline.maxSteps"


def _of_task(task: ReportTask) -> Iterator[str]:
    if task.overlap_rows <= NOTABLE_OVERLAP * task.rows.test:
        return
    text = f"{task.overlap_rows:,} of {counted(task.rows.test, 'test row')} also in a train split"
    if task.judged_without_overlap:
        yield f"{text}; the verdict is by the others, where the ratio is {number(task.ratio_without_overlap)}"
    elif task.ratio_without_overlap is not None:
        yield f"{text}; without them the ratio is {number(task.ratio_without_overlap)}, too few rows for a verdict"
    else:
        yield f"{text}; the score says nothing about new texts"


def frozen_base_notes(model: MultiTaskModel, graph: Graph) -> list[str]:
    """A note if tasks were added after the base model was made: it does not know their text, and is not made again."""
    manifest = graph["base"].manifest
    pretraining = model.spec.pretraining
    trained = pretraining is not None and pretraining.tasks_text
    if manifest is None or not (trained or is_builtin(model.spec.base_model.uri)):
        return []
    seen = set(BaseResult.model_validate(manifest.result).tasks)
    added = [task.name for task in model.spec.tasks if task.name not in seen]
    if not added:
        return []
    lack = "was not trained on the text of" if trained else "has a tokenizer that was made without the text of"
    field = "baseModel.revision" if pretraining is None else "pretraining.refresh"
    remedy = f"to make it again (and train everything again), change the text of spec.{field}"
    return [f"the base model is kept as it is and {lack} {', '.join(added)}; {remedy}"]


def _truncated(rows: Mapping[str, int]) -> Iterator[str]:
    for task, count in rows.items():
        if count:
            yield f"{counted(count, 'row')} of {task} longer than training.maxLength and truncated"
