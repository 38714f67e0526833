"""Numbers and texts in the form that people read."""

from __future__ import annotations

from collections.abc import Sequence


def number(value: float | None) -> str:
    """Three decimals, or a dash for None."""
    return "–" if value is None else f"{value:.3f}"


def interval(ends: tuple[float, float] | None, source: str | None) -> str:
    """Both ends, or a dash for None. ``source``: a task's ``interval_from``; from rows alone it is marked."""
    if ends is None:
        return "–"
    return f"{number(ends[0])} – {number(ends[1])}" + (" (rows only)" if source == "rows" else "")


def counted(count: int, noun: str) -> str:
    """``1 row`` or ``1,234 rows``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def listed(names: Sequence[str], most: int = 5) -> str:
    """``a, b and c``; of more than ``most`` names the first, and how many are left out."""
    shown = [*names[:most], f"{len(names) - most:,} more"] if len(names) > most else list(names)
    return " and ".join(part for part in (", ".join(shown[:-1]), *shown[-1:]) if part)


def routing_cause(cause: str | None) -> str:
    """Why a model answers a task, as tables show it: ``SurelyBetter`` of the results holds at equal scores too."""
    return "AtLeastAsGood" if cause == "SurelyBetter" else cause or "–"


def size(count: float) -> str:
    """A number of bytes in the unit that reads best (powers of ten)."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def duration(seconds: float) -> str:
    """``seconds`` as seconds, minutes, hours or days, whatever makes the number a small one."""
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    days = seconds / 86400
    return f"{days:.1f} days" if days < 10 else f"{days:,.0f} days"


def cut(text: str, size: int) -> str:
    """``text`` in at most ``size`` bytes of UTF-8, ending in … if it was cut."""
    data = text.encode()
    return text if len(data) <= size else data[: size - len("…".encode())].decode(errors="ignore") + "…"
