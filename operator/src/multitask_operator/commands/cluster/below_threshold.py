"""Tasks that the shared models do not answer well enough, and by how much. Pure."""

from __future__ import annotations

from multitask_api.report import ReportTask
from multitask_api.resource import MultiTaskModel
from multitask_api.stages import Graph
from multitask_operator.formatting import number
from multitask_operator.report.build import build_report


def below_threshold(model: MultiTaskModel, graph: Graph) -> list[str]:
    """A line for each task that is judged and not qualified, the furthest below first; then what that means."""
    report = build_report(model, graph, {})
    out = [task for task in report.tasks if task.verdict not in (None, "Qualified")]
    if not out:
        return []
    rule = model.spec.qualification.rule
    lines = [_line(task, report.threshold, rule) for task in sorted(out, key=lambda task: _reached(task, rule))]
    if report.revision is None or model.spec.qualification.promote == "AllQualified":
        return [*lines, "promote: AllQualified: no new revision is served until every task qualifies"]
    return lines


def _line(task: ReportTask, bar: float, rule: str) -> str:
    figures = f"score {number(task.score)}, its own model {number(task.baseline)}, ratio {number(task.ratio)}"
    if task.interval is not None:
        figures += f" in {task.interval[0]:.3f} – {task.interval[1]:.3f}"
    text = f"{task.name}: {task.verdict}"
    short = bar - _reached(task, rule)
    if task.ratio is not None and short > 0:
        what = "the interval's lower end" if rule == "LowerBound" else "the ratio"
        text += f", {what} is {short:.4f} below the bar of {bar:g}"
    answered = f"; answered by {task.served_by}" if task.served_by else ""
    reason = f"; {task.reason}" if task.reason and task.verdict != "NotQualified" else ""
    return f"{text} ({figures}){reason}{answered}"


def _reached(task: ReportTask, rule: str) -> float:
    """What is compared with the bar."""
    if rule == "LowerBound" and task.interval is not None:
        return task.interval[0]
    return task.ratio if task.ratio is not None else float("inf")
