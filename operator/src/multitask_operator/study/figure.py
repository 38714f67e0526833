"""The figure of a study: what each run came to, and the differences to the reference."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from multitask_operator.report.svg import BLUE, GREEN, GREY, INK, ORANGE, STYLE, to_svg
from multitask_operator.study.report import StudyArmReport


def differences(arms: Sequence[StudyArmReport]) -> str:
    """Left: the mean ratio of every run, and their mean. Right: the difference to the first arm, with its interval."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 1.2 + 0.4 * len(arms)), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        for row, arm in enumerate(arms):
            _runs(left, row, arm)
            _difference(right, row, arm)
        left.set_yticks(range(len(arms)), [arm.name for arm in arms])
        left.set_ylim(len(arms) - 0.5, -0.5)
        left.set_xlabel("mean ratio: every seed, and their mean")
        right.axvline(0, color=INK, linestyle="--", linewidth=1.2)
        right.set_xlabel(f"difference to {arms[0].name}")
        return to_svg(figure)


def _runs(axes: Axes, row: int, arm: StudyArmReport) -> None:
    ratios = [run.mean_ratio for run in arm.runs if run.mean_ratio is not None]
    axes.scatter(ratios, [row] * len(ratios), marker="o", facecolors="none", edgecolors=GREY, s=35, zorder=2)
    if arm.mean is not None:
        axes.scatter([arm.mean], [row], marker="|", color=BLUE, s=220, linewidths=2.5, zorder=3)


def _difference(axes: Axes, row: int, arm: StudyArmReport) -> None:
    found = arm.difference
    if found is None:
        return
    supported = found.interval is not None and (found.interval[0] > 0 or found.interval[1] < 0)
    colour = GREEN if supported else ORANGE
    if found.interval is not None:
        axes.plot(found.interval, [row, row], color=colour, linewidth=3, alpha=0.55, solid_capstyle="butt")
    axes.scatter([found.value], [row], marker="o" if supported else "D", color=colour, s=45, zorder=3)
