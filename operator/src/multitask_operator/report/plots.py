"""The report's figures as inline SVG: text stays text, colours come from the page's style sheet."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from multitask_api.report import Report, ReportGroup, ReportTask
from multitask_api.stage_io.affinity import AffinityResult
from multitask_api.stage_io.ledger import LedgerResult
from multitask_operator.formatting import counted
from multitask_operator.report.svg import BLUE, GREEN, GREY, INK, ORANGE, RED, STYLE, to_svg

#: Verdict → (colour, marker): the shape tells them apart without colour.
VERDICTS = {
    "Qualified": (GREEN, "o"),
    "NotQualified": (RED, "X"),
    "Inconclusive": (ORANGE, "D"),
    "NoBaseline": (GREY, "s"),
}
STAGES = {"baseline": (BLUE, "-"), "high-resource": (ORANGE, "--"), "mixture": (GREEN, "-")}
MOST_CURVES = 32
#: The ratio's axis shows all ratios with this margin, within limits; an interval that goes beyond them gets an arrow.
_RATIO_LIMITS = (0.5, 1.5)
_RATIO_MARGIN = 0.1


def qualification(report: Report) -> str:
    """Left: baseline, score and floor of every task. Right: the ratio, its interval and the threshold."""
    tasks = report.tasks
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 1.3 + 0.36 * len(tasks)), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1, 1.2))
        _scores(left, tasks)
        _ratios(right, tasks, report.threshold)
        left.set_yticks(range(len(tasks)), [task.name for task in tasks])
        left.set_ylim(len(tasks) - 0.5, -0.5)
        handles, labels = left.get_legend_handles_labels()
        right_handles, right_labels = right.get_legend_handles_labels()
        figure.legend(
            [*handles, *right_handles], [*labels, *right_labels], loc="outside upper center", ncols=7, fontsize=9
        )
        return to_svg(figure)


def _scores(axes: Axes, tasks: Sequence[ReportTask]) -> None:
    for row, task in enumerate(tasks):
        if task.baseline is not None and task.score is not None:
            axes.plot([task.baseline, task.score], [row, row], color=GREY, linewidth=2, zorder=1)
    columns = (("floor", "floor", "|", GREY, 60), ("baseline", "single-task model", "s", BLUE, 45))
    for field, label, marker, colour, area in columns:
        points = [(getattr(task, field), row) for row, task in enumerate(tasks) if getattr(task, field) is not None]
        if points:
            values, positions = zip(*points, strict=True)
            axes.scatter(values, positions, marker=marker, color=colour, s=area, label=label, zorder=2)
    for verdict, (colour, marker) in VERDICTS.items():
        scored = [
            (task.score, row) for row, task in enumerate(tasks) if task.verdict == verdict and task.score is not None
        ]
        if scored:
            values, positions = zip(*scored, strict=True)
            axes.scatter(values, positions, marker=marker, color=colour, s=45, label=verdict, zorder=3)
    axes.set_xlabel("test score (higher is better)")


def _ratios(axes: Axes, tasks: Sequence[ReportTask], threshold: float) -> None:
    known = [threshold, 1.0, *(task.judged_ratio for task in tasks if task.judged_ratio is not None)]
    low, high = max(_RATIO_LIMITS[0], min(known) - _RATIO_MARGIN), min(_RATIO_LIMITS[1], max(known) + _RATIO_MARGIN)
    for row, task in enumerate(tasks):
        colour, marker = VERDICTS.get(task.verdict or "NoBaseline", VERDICTS["NoBaseline"])
        if task.judged_interval is not None:
            ends = [min(max(end, low), high) for end in task.judged_interval]
            axes.plot(ends, [row, row], color=colour, linewidth=3, alpha=0.55, solid_capstyle="butt")
            for end, shown, tip in zip(task.judged_interval, ends, ("<", ">"), strict=True):
                axes.scatter([shown], [row], marker="|" if end == shown else tip, color=colour, s=60, clip_on=False)
        if task.judged_ratio is not None:
            axes.scatter([min(max(task.judged_ratio, low), high)], [row], marker=marker, color=colour, s=50, zorder=3)
        else:
            axes.annotate("no ratio", (low, row), xytext=(6, 0), textcoords="offset points", va="center", color=GREY)
    axes.axvline(threshold, color=INK, linestyle="--", linewidth=1.2, label=f"threshold {threshold:g}")
    axes.set_xlim(low, high)
    axes.set_xlabel("score / single-task score, with 95 % interval")


def curves(report: Report, figure_of: str) -> str:
    """Validation ``score`` or ``loss`` by step: one small plot per task, one line per stage (and seed)."""
    tasks = report.tasks[:MOST_CURVES]
    columns = min(4, len(tasks))
    rows = -(-len(tasks) // columns)
    with mpl.rc_context(STYLE | {"font.size": 9}):
        figure = Figure(figsize=(10, 0.7 + 1.75 * rows), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        labels: dict[str, Line2D] = {}
        for index, axes in enumerate(grid.flat):
            if index >= len(tasks):
                axes.set_axis_off()
                continue
            _curve(axes, report, tasks[index].name, figure_of, labels)
        figure.supxlabel("training step", fontsize=9)
        if labels:
            figure.legend(labels.values(), labels.keys(), loc="outside upper center", ncols=3)
        return to_svg(figure)


def _curve(axes: Axes, report: Report, task: str, figure_of: str, labels: dict[str, Line2D]) -> None:
    for stage in report.stages:
        kind = stage.name.split("/")[0]
        if kind not in STAGES or (kind == "baseline" and not stage.name.startswith(f"baseline/{task}/")):
            continue
        points = [(point.step, getattr(point.tasks[task], figure_of)) for point in stage.curve if task in point.tasks]
        if points:
            colour, dash = STAGES[kind]
            marker = "." if len(points) < 3 else None
            lines = axes.plot(*zip(*points, strict=True), color=colour, linestyle=dash, marker=marker, linewidth=1.6)
            labels.setdefault(kind, lines[0])
    axes.set_title(task, fontsize=9, loc="left", color=INK)
    axes.margins(y=0.12)
    axes.locator_params(nbins=4)


def sampling(group: ReportGroup, rows: dict[str, int]) -> str:
    """Shares of the mixture: of the training rows, as sampling probability (p_i), and as drawn in stage 3."""
    drawn, data = sum(group.stage3_rows.values()), sum(rows.values())
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 0.9 + 0.5 * len(group.tasks)), layout="constrained")
        axes = figure.subplots()
        positions = range(len(group.tasks))
        bars = (
            ("share of the training rows", GREY, -0.26, [rows.get(task, 0) / max(1, data) for task in group.tasks]),
            ("sampling probability", BLUE, 0.0, [group.probabilities.get(task, 0.0) for task in group.tasks]),
            (
                "drawn in stage 3",
                ORANGE,
                0.26,
                [group.stage3_rows.get(task, 0) / max(1, drawn) for task in group.tasks],
            ),
        )
        for label, colour, shift, values in bars:
            if any(values):
                axes.barh([position + shift for position in positions], values, height=0.24, color=colour, label=label)
        axes.set_yticks(positions, list(group.tasks))
        axes.set_ylim(len(group.tasks) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
        axes.set_xlim(left=0)
        figure.legend(loc="outside upper center", ncols=3, fontsize=9)
        return to_svg(figure)


def affinity(result: AffinityResult) -> str:
    """A square for each pair of tasks, its side the size of the affinity; empty where the interval contains 0."""
    order = [task for tasks in result.groups.values() for task in tasks]
    with mpl.rc_context(STYLE):
        width = min(10.0, 3.6 + 0.42 * len(order))
        figure = Figure(figsize=(width, 2.0 + 0.42 * len(order)), layout="constrained")
        axes = figure.subplots()
        for row, task in enumerate(order):
            for column, other in enumerate(order[:row]):
                value, half_width = result.between(task, other)
                side = max(0.06, 0.9 * abs(value) ** 0.5)
                colour, is_sure = (BLUE if value > 0 else RED), abs(value) > half_width
                corner = (column - side / 2, row - side / 2)
                square = Rectangle(corner, side, side, edgecolor=colour, facecolor=colour if is_sure else "none")
                axes.add_patch(square)
        begin = 0
        for tasks in result.groups.values():
            axes.add_patch(
                Rectangle((begin - 0.5, begin - 0.5), len(tasks), len(tasks), edgecolor=INK, facecolor="none")
            )
            begin += len(tasks)
        axes.set_xticks(range(len(order)), order, rotation=90)
        axes.set_yticks(range(len(order)), order)
        axes.set_xlim(-0.5, len(order) - 0.5)
        axes.set_ylim(len(order) - 0.5, -0.5)
        axes.set_aspect("equal")
        axes.grid(visible=False)
        shown = (("helps", BLUE, BLUE), ("hurts", RED, RED), ("not sure", GREY, "none"), ("group", INK, "none"))
        handles = [Rectangle((0, 0), 1, 1, edgecolor=edge, facecolor=face, label=name) for name, edge, face in shown]
        figure.legend(handles=handles, loc="outside upper center", ncols=4, fontsize=9)
        return to_svg(figure)


def ledger(result: LedgerResult) -> str:
    """N servers against one: bytes (runtime and weights apart), requests per second, replicas, training seconds."""
    sides = (result.single_task, result.multi_task)
    names = [counted(result.single_task.models, "server"), "1 server"]
    rate = result.single_task_rate
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 2.4), layout="constrained")
        memory, *rest = figure.subplots(1, 3 if rate is None else 4)
        weights = [side.bytes / 1e6 for side in sides]
        runtime = [result.runtime_bytes * servers / 1e6 for servers in (result.single_task.models, 1)]
        memory.bar(names, runtime, color=GREY, label="runtime")
        memory.bar(names, weights, bottom=runtime, color=BLUE, label="weights")
        memory.set_title("memory, MB", fontsize=10, loc="left")
        memory.legend(fontsize=8, loc="upper right")
        bars: dict[str, list[float]] = {
            "replicas at the load": [side.replicas for side in sides],
            "training, s": [side.training_seconds for side in sides],
        }
        if rate is not None:
            bars = {"requests/s, same cores and mix": [rate, result.multi_task.requests_per_second]} | bars
        for axes, (title, values) in zip(rest, bars.items(), strict=True):
            _bars(axes, names, values, title)
        for axes in (memory, *rest):
            axes.grid(visible=False, axis="x")
            axes.margins(y=0.18)
        return to_svg(figure)


def _bars(axes: Axes, names: list[str], values: Sequence[float], title: str) -> None:
    bars = axes.bar(names, values, color=[BLUE, GREEN])
    axes.bar_label(bars, fmt="{:,.0f}", fontsize=9, padding=2)
    axes.set_title(title, fontsize=10, loc="left")
