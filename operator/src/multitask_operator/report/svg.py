"""Figures of matplotlib as inline SVG: text stays text, colours come from the page's style sheet."""

from __future__ import annotations

import io
import re
from typing import Any

from matplotlib.figure import Figure

# Placeholder colours, replaced by CSS variables of the page so that a figure is legible on light and dark pages. The
# variables hold the colour-blind safe palette of Okabe and Ito (2008).
INK, GRID, BLUE, ORANGE, GREEN, RED, GREY = (f"#0{n}0{n}0f" for n in range(1, 8))
_VARIABLES = {
    INK: "currentColor",
    GRID: "var(--grid)",
    BLUE: "var(--blue)",
    ORANGE: "var(--orange)",
    GREEN: "var(--green)",
    RED: "var(--red)",
    GREY: "var(--muted)",
}
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "multitask",
    "font.size": 10,
    "font.family": "sans-serif",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "legend.frameon": False,
}
"""Settings of matplotlib for all figures, for `matplotlib.rc_context`."""


def to_svg(figure: Figure) -> str:
    """The figure as an <svg> element without a size of its own, in the page's colours and font."""
    out = io.StringIO()
    figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r"font(?:-family)?: [^;\"]*sans-serif[^;\"]*", _plain_font, text)
    for placeholder, variable in _VARIABLES.items():
        text = text.replace(placeholder, variable)
    return text


def _plain_font(match: re.Match[str]) -> str:
    """The page's font instead of matplotlib's list of fonts; a ``font:`` shorthand keeps its size."""
    size = re.search(r"([\d.]+)px", match[0])
    return f"font: {size[1]}px system-ui, sans-serif" if size else "font-family: system-ui, sans-serif"
