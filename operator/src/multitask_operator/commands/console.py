"""What commands print on standard output: tables, lines and JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from multitask_api.report import Report, ReportTask
from multitask_operator.formatting import counted, interval, number, routing_cause
from multitask_operator.report.interference import diagnosis_text
from multitask_operator.report.mixture_starts import start_lines
from multitask_operator.report.overlap import OVERLAP_LEGEND, has_overlap, overlap_share, ratio_without_overlap

if TYPE_CHECKING:
    from rich.table import Table

#: The largest width of tables where standard output is not a terminal, in characters: a log folds lines by itself.
_WIDTH = 240


def print_json(data: object) -> None:
    """Print one JSON document."""
    sys.stdout.write(json.dumps(data, ensure_ascii=False, indent=1) + "\n")


def print_line(line: str = "") -> None:
    """Print a line."""
    sys.stdout.write(line + "\n")


def run_command(workdir: Path) -> str:
    """The command that runs a model in ``workdir``, as messages name it."""
    return f"`mtm run FILE --workdir {quote(str(workdir))}`"


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str] = ()) -> None:
    """Print a table; the columns in ``right`` are aligned to the right."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else _WIDTH, highlight=False)
    console.print(_table(title, columns, rows, right))


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    printed = Table(title=title or None, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        printed.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        printed.add_row(*(Text(cell) for cell in row))
    return printed


def qualification(report: Report) -> None:
    """Print the table of results, and how many tasks are qualified and confirmed."""
    with_overlap = has_overlap(report.tasks)
    overlap = ("in train", "ratio without") if with_overlap else ()
    sources = {task.interval_from for task in report.tasks if task.interval is not None}
    interval_title = "interval (rows only)" if sources == {"rows"} else "interval"
    columns = ("task", "group", "metric", "baseline", "score", "ratio", interval_title, *overlap)
    rows = [_task_row(task, mark=len(sources) > 1, with_overlap=with_overlap) for task in report.tasks]
    table("", (*columns, "verdict", "served by", "why"), rows, right=("baseline", "score", "ratio", *overlap))
    print_line(f"qualified {report.qualified}/{report.total}, confirmed {report.confirmed}")
    if with_overlap:
        print_line(OVERLAP_LEGEND)


def tuning(report: Report) -> None:
    """Print which weights each group trained."""
    for group in report.groups:
        if group.tuning is not None:
            count = f"; {counted(group.trained_weights, 'trained weight')}" if group.trained_weights else ""
            print_line(f"{group.name}: {group.tuning}{count}")


def starts(report: Report) -> None:
    """Print how the mixtures with ``start: Previous`` began, and what that saved."""
    for group in report.groups:
        for line in start_lines(group):
            print_line(f"{group.name}: {line}")


def diagnoses(report: Report) -> None:
    """Print why tasks are below the threshold, where the affinities of tasks are known."""
    for item in report.diagnoses or ():
        print_line(f"{item.task} is below the threshold. {diagnosis_text(item)}")


def warnings(report: Report) -> None:
    """Print what the report warns of, for the model and for each group."""
    for warning in (*report.warnings, *(text for group in report.groups for text in group.warnings)):
        print_line(f"warning: {warning}")


def _task_row(task: ReportTask, *, mark: bool, with_overlap: bool) -> tuple[str, ...]:
    verdict = (task.verdict or "–") + (" (confirmed)" if task.confirmed else "")
    scores = (number(task.baseline), number(task.score), number(task.ratio))
    figures = (*scores, interval(task.interval, task.interval_from if mark else None))
    overlap = (overlap_share(task), ratio_without_overlap(task)) if with_overlap else ()
    return (
        task.name,
        task.group,
        task.metric,
        *figures,
        *overlap,
        verdict,
        task.served_by or "–",
        routing_cause(task.cause),
    )
