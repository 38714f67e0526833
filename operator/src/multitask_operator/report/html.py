"""The report as one self-contained HTML page: its figures are inline, and it loads nothing."""

from __future__ import annotations

from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from multitask_api.report import Report, ReportGroup, ReportMachine
from multitask_operator.formatting import counted, duration, interval, listed, number, routing_cause, size
from multitask_operator.report.interference import diagnosis_text
from multitask_operator.report.mixture_starts import start_lines
from multitask_operator.report.overlap import OVERLAP_LEGEND, has_overlap, overlap_share, ratio_without_overlap
from multitask_operator.report.reasons import shared_reasons


def render(report: Report) -> str:
    """The page as HTML text."""
    from multitask_operator.report import plots  # matplotlib takes half a second to import

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": number, "size": size, "duration": duration, "count": _count, "percent": _percent}
    environment.filters |= {
        "counted": counted,
        "listed": listed,
        "overlap": overlap_share,
        "routing_cause": routing_cause,
    }
    environment.filters |= {
        "without_overlap": ratio_without_overlap,
        "start_lines": start_lines,
        "diagnosis_text": diagnosis_text,
    }
    template = environment.from_string(files(__package__).joinpath("report.html.j2").read_text("utf-8"))
    has_curves = any(stage.curve for stage in report.stages)
    return template.render(
        report=report,
        style=page_style(),
        interval=interval,
        qualification=_figure(plots.qualification(report)) if any(task.verdict for task in report.tasks) else None,
        scores=_figure(plots.curves(report, "score")) if has_curves else None,
        losses=_figure(plots.curves(report, "loss")) if has_curves else None,
        sampling={group.name: _figure(plots.sampling(group, _rows(report, group))) for group in report.groups},
        affinity=_figure(plots.affinity(report.affinity)) if report.affinity else None,
        ledger=_figure(plots.ledger(report.ledger)) if report.ledger else None,
        alternative=_alternative(report),
        machines=[_machine(machine) for machine in report.machines],
        has_overlap=has_overlap(report.tasks),
        overlap_legend=OVERLAP_LEGEND,
        reasons=shared_reasons(report.tasks),
        hidden_curves=max(0, len(report.tasks) - plots.MOST_CURVES),
    )


def page_style() -> Markup:
    """The style sheet of all pages: light and dark, and colours for figures."""
    return Markup(files(__package__).joinpath("page.css").read_text("utf-8"))


def _machine(machine: ReportMachine) -> str:
    """``node-7: 16 CPUs, cuda``."""
    threads = f" ({counted(machine.threads, 'thread')} used)" if machine.threads else ""
    cpus = f"{counted(machine.cpus, 'CPU')}{threads}, " if machine.cpus else ""
    return f"{machine.host}: {cpus}{machine.device}"


def _figure(svg: str) -> Markup:
    """SVG of matplotlib, which has escaped the texts in it: not to be escaped again."""
    return Markup(svg)


def _rows(report: Report, group: ReportGroup) -> dict[str, int]:
    return {task.name: task.rows.train for task in report.tasks if task.name in group.tasks}


def _alternative(report: Report) -> str:
    """The qualification figure in words, for screen readers."""
    lines = [
        f"{task.name}: score {number(task.score)}, single-task {number(task.baseline)}, ratio {number(task.ratio)},"
        f" {task.verdict or 'not evaluated'}"
        for task in report.tasks
    ]
    return "; ".join(lines)


def _count(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"
