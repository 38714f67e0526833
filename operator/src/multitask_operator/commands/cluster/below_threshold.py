"""Which tasks do not reach the threshold of spec.qualification, and by how much. Pure."""

from __future__ import annotations

from multitask_api.report import ReportTask
from multitask_api.resource import MultiTaskModel
from multitask_api.stages import Graph
from multitask_operator.formatting import number
from multitask_operator.report.build import build_report


def below_threshold(model: MultiTaskModel, graph: Graph) -> list[str]:
    """A line for each task that is evaluated and not qualified, the furthest below first; then what follows from it."""
    report = build_report(model, graph, {})
    missed = [task for task in report.tasks if task.verdict not in (None, "Qualified")]
    if not missed:
        return []
    rule = model.spec.qualification.rule
    lines = [
        _line(task, report.threshold, rule) for task in sorted(missed, key=lambda task: _compared_value(task, rule))
    ]
    if report.revision is None or model.spec.qualification.promote == "AllQualified":
        return [
            *lines,
            "promote is AllQualified: no new revision is served until every task qualifies",
        ]
    return lines


def _line(task: ReportTask, threshold: float, rule: str) -> str:
    ratio, interval = task.judged_ratio, task.judged_interval
    figures = f"score {number(task.score)}, single-task model {number(task.baseline)}, ratio {number(ratio)}"
    if interval is not None:
        figures += f" in {interval[0]:.3f} – {interval[1]:.3f}"
    if task.judged_without_overlap:
        figures += ", without the test rows that are also in a train split"
    text = f"{task.name}: {task.verdict}"
    shortfall = threshold - _compared_value(task, rule)
    if ratio is not None and shortfall > 0:
        compared = "the interval's lower end" if rule == "LowerBound" else "the ratio"
        text += f", {compared} is {shortfall:.4f} below the threshold of {threshold:g}"
    served_by = f"; served by {task.served_by}" if task.served_by else ""
    reason = f"; {task.reason}" if task.reason and task.verdict != "NotQualified" else ""
    return f"{text} ({figures}){reason}{served_by}"


def _compared_value(task: ReportTask, rule: str) -> float:
    """What the rule compares with the threshold."""
    if rule == "LowerBound" and task.judged_interval is not None:
        return task.judged_interval[0]
    return task.judged_ratio if task.judged_ratio is not None else float("inf")
