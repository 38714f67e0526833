"""The page of a study, as Markdown and as one self-contained HTML file: the same tables in both. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from multitask_operator.formatting import counted, duration, listed, number
from multitask_operator.report.html import page_style
from multitask_operator.study.report import StudyArmReport, StudyReport, StudyRun
from multitask_operator.study.statistics import mean_sd

_STATES = {"Failed": "failed", "Unfinished": "not finished"}


@dataclass(frozen=True)
class Table:
    """A heading, a sentence on what the figures are, and cells; ``numeric``: columns that are aligned to the right."""

    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: frozenset[int] = frozenset()


def tables(report: StudyReport) -> tuple[Table, ...]:
    """All tables of the page."""
    return (outcome(report), _tasks(report), _cost(report), _rows(report))


def facts(report: StudyReport) -> tuple[str, ...]:
    """What every run has in common, and what was spent: a sentence each."""
    return tuple(_facts(report))


def reuse(report: StudyReport) -> str:
    """How many stages the runs are made of, how many of them were run, and how many were used again."""
    cost = report.cost
    return (
        f"the runs need {counted(cost.uses, 'stage')}: {cost.ran:,} ran in this call, {cost.results - cost.ran:,} were"
        f" cached, and {cost.uses - cost.results:,} times a run took the result of another run's stage"
    )


def markdown(report: StudyReport) -> str:
    """The page as Markdown."""
    lines = [f"# Study {report.name} of {report.model}", "", f"**{report.conclusion}**", ""]
    lines += [*(f"- {text}" for text in facts(report)), ""]
    if report.warnings:
        lines += ["Before trusting the figures:", "", *(f"- {text}" for text in report.warnings), ""]
    for table in tables(report):
        lines += [f"## {table.title}", "", *([table.note, ""] if table.note else [])]
        lines += [_line(table.columns)]
        lines += [_line(["---:" if index in table.numeric else "---" for index in range(len(table.columns))])]
        lines += [*(_line(row) for row in table.rows), ""]
    return "\n".join(lines)


def html(report: StudyReport) -> str:
    """The page as HTML text."""
    from multitask_operator.study import figure  # matplotlib takes half a second to import

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["counted"] = counted
    template = environment.from_string(files(__package__).joinpath("study.html.j2").read_text("utf-8"))
    drawn = Markup(figure.differences(report.arms)) if report.judged else None  # matplotlib has escaped the texts in it
    return template.render(report=report, facts=facts(report), tables=tables(report), figure=drawn, style=page_style())


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _facts(report: StudyReport) -> Iterator[str]:
    seeds = ", ".join(map(str, report.seeds))
    arms = f"{counted(len(report.arms), 'arm')}, the reference is {report.arms[0].name}"
    yield f"{arms}; seeds of stages 2 and 3: {seeds}"
    if report.total_steps is not None:
        yield (
            f"every run has {report.total_steps:,} steps of {report.batch_rows:,} rows in stages 2 and 3, over all"
            " groups, no early stopping, and as many validations of each training"
        )
    yield "all runs have their baselines in common, unless something below says otherwise"
    yield reuse(report)
    cost = report.cost
    yield f"processes took {duration(cost.seconds)}, {duration(cost.shared_seconds)} of them before stage 2"
    if report.base_model is not None:
        yield f"base model: {report.base_model}"
    if report.written is not None:
        yield f"written {report.written}"


def outcome(report: StudyReport) -> Table:
    """One line an arm: mean ratio, difference to the reference, qualified tasks."""
    reference = report.arms[0].name
    note = (
        f"The ratio of a task is its score by that of the baselines of {reference}, in all arms; the mean is over the"
        f" {counted(len(report.judged), 'task')} that these allow{_in_brackets(report.judged)},"
        " mean ± SD over seeds. A difference is seed by seed; all intervals together hold with 95 %, for other seeds:"
        " other test rows, data or baselines are not in them. Inconclusive: tasks of a run whose verdict is open; they"
        " count in the mean ratio."
    )
    columns = (
        "arm", "mean ratio", f"difference to {reference}", "interval", "qualified, by seed", "inconclusive, by seed",
    )  # fmt: skip
    rows = [
        (
            arm.name,
            _mean_sd(arm.mean, arm.deviation),
            *_difference(arm),
            _by_seed(arm, _qualified),
            _by_seed(arm, lambda run: str(run.inconclusive)),
        )
        for arm in report.arms
    ]
    return Table("Outcome", note, columns, tuple(rows), frozenset({1, 2, 3}))


def _in_brackets(names: Sequence[str]) -> str:
    return f" ({listed(names, 20)})" if names else ""


def _difference(arm: StudyArmReport) -> tuple[str, str]:
    if arm.same_training is not None:
        return f"same training as {arm.same_training}", "–"
    if arm.difference is None:
        return "–", "–"
    value, interval = f"{arm.difference.value:+.3f}", arm.difference.interval
    if interval is not None:
        return value, f"{interval[0]:+.3f} to {interval[1]:+.3f}"
    return value, "none: one seed" if len(arm.difference.seeds) == 1 else "none: every seed gives the same"


def _tasks(report: StudyReport) -> Table:
    columns = ("task", *(part for arm in report.arms for part in (f"{arm.name}: score", "ratio")))
    rows = []
    for task in report.tasks:
        cells = [task]
        for arm in report.arms:
            outcomes = [run.tasks[task] for run in arm.runs if task in run.tasks]
            ratios = [item.ratio for item in outcomes if item.ratio is not None]
            cells += [_spread([item.score for item in outcomes]), _spread(ratios)]
        rows.append(tuple(cells))
    return Table("Tasks", "Mean ± SD over seeds.", columns, tuple(rows), frozenset(range(1, len(columns))))


def _cost(report: StudyReport) -> Table:
    note = (
        "Rows, tokens and seconds are of stages 2 and 3; the seconds, of processes, also of the evaluation. Checkpoints"
        " are those that each mixture chose from. Stages: results that the arm is made of, and how many of them other"
        " arms are made of too."
    )
    columns = ("arm", "rows", "tokens", "seconds", "checkpoints", "stages", "shared")
    rows = [
        (
            arm.name,
            _by_seed(arm, lambda run: f"{run.rows:,}"),
            _by_seed(arm, lambda run: f"{run.tokens:,}"),
            _by_seed(arm, lambda run: f"{run.seconds:,.0f}"),
            _by_seed(arm, lambda run: " + ".join(map(str, run.validations))),
            f"{arm.stages.total:,}",
            f"{arm.stages.shared:,}",
        )
        for arm in report.arms
    ]
    return Table("Cost", note, columns, tuple(rows), frozenset({1, 2, 3, 5, 6}))


def _rows(report: StudyReport) -> Table:
    """What each task was given, in the first finished run of each arm."""
    columns = ("task", *(arm.name for arm in report.arms))
    first = [next((run for run in arm.runs if run.finished), None) for arm in report.arms]
    rows = [
        (task, *("–" if run is None or task not in run.tasks else f"{run.tasks[task].rows:,}" for run in first))
        for task in report.tasks
    ]
    note = "Training rows of stages 2 and 3 in the first run of each arm."
    return Table("Rows of each task", note, columns, tuple(rows), frozenset(range(1, len(columns))))


def _by_seed(arm: StudyArmReport, shown: Callable[[StudyRun], str]) -> str:
    """A figure of each run; once, if it is the same in all."""
    texts = [shown(run) if run.finished else _STATES[run.state] for run in arm.runs]
    return texts[0] if len(set(texts)) == 1 else ", ".join(texts)


def _qualified(run: StudyRun) -> str:
    return f"{run.qualified}/{len(run.tasks)}"


def _spread(values: Sequence[float]) -> str:
    return _mean_sd(*mean_sd(values)) if values else "–"


def _mean_sd(mean: float | None, deviation: float | None) -> str:
    return number(mean) if deviation is None else f"{number(mean)} ± {number(deviation)}"
