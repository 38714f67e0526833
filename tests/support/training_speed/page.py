"""The page of `training_speed.py`: a row for each side of each combination, and the losses of every step."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from typing import Any

Result = Mapping[str, Any]

NAMES = {"ours": "ours", "trainer": "HF Trainer"}
_HEAD = """# Training speed

    python tests/benchmarks/training_speed.py --out FOLDER …

Our training step against HF Trainer + PEFT, on the same rows in the same global batches, with the same loss. Tokens
are those of rows, padding not counted; FLOPs are those that the model needs for them. Memory is that of the GPU's
tensors, or of a process on a CPU.
"""
_COLUMNS = (
    "base", "method", "side", "tokens/s", "ratio", "ratio in CPU time", "s a step: median", "p95", "peak MiB",
    "MFLOP a token", "TFLOP/s", "share of peak", "largest loss difference", "rounds",
)  # fmt: skip
NONE = "–"


def page_text(results: Iterable[Result], *, peak_tflops: float) -> str:
    """The whole page in Markdown; of results for the same combination the last one counts."""
    groups: dict[str, dict[tuple[str, str], Result]] = {}
    for result in results:
        given = result["combination"]
        groups.setdefault(_setting(result), {})[given["base"], given["method"]] = result
    parts = [_HEAD]
    for setting, group in groups.items():
        parts += [f"\n## {setting}\n", f"| {' | '.join(_COLUMNS)} |", f"|{' --- |' * len(_COLUMNS)}"]
        parts += [f"| {' | '.join(cells)} |" for result in group.values() for cells in _rows(result, peak_tflops)]
        parts += ["\nLosses of every step, the warm-up first:\n"]
        parts += [f"    {line}" for result in group.values() for line in _losses(result)]
    return "\n".join(parts) + "\n"


def lines_of(result: Result, *, peak_tflops: float) -> list[str]:
    """What is printed of one combination."""
    rows = [
        "  ".join(f"{name}: {cell}" for name, cell in zip(_COLUMNS, cells, strict=True) if cell != NONE)
        for cells in _rows(result, peak_tflops)
    ]
    attention = result.get("ours", {}).get("attention")
    notes = [f"attention of packed rows: {attention}"] if attention else []
    return [*rows, *(f"  {line}" for line in (*notes, *_losses(result)))]


def loss_difference(result: Result) -> float | None:
    """The largest relative difference of the sides' losses over all steps that both took; None without two sides."""
    sides = [result[side]["losses"] for side in NAMES if side in result]
    if len(sides) < 2 or not all(sides):
        return None
    return max(abs(ours - theirs) / abs(theirs) for ours, theirs in zip(*sides, strict=False))


def tokens_per_second(result: Result, side: str) -> float | None:
    """Of the steps that count; None for a side that has none."""
    seconds = _seconds(result, side)
    return result["tokens"] / sum(seconds) if seconds else None


def _cpu_ratio(result: Result) -> float | None:
    """What HF Trainer takes of the processor, by what ours takes; None on a GPU, and where a side has no steps."""
    if result["combination"]["device"] != "cpu":
        return None
    ours, theirs = (sum(_seconds(result, side, "cpu_seconds")) for side in NAMES)
    return theirs / ours if ours and theirs else None


def _seconds(result: Result, side: str, clock: str = "seconds") -> list[float]:
    if side not in result or result[side]["out_of_memory"]:
        return []
    warmup = result["combination"]["warmup"]
    seconds: list[float] = result[side].get(clock, [])[warmup : warmup + result["steps"]]
    return seconds


def _rows(result: Result, peak_tflops: float) -> list[list[str]]:
    given = result["combination"]
    if "failed" in result:
        return [[given["base"], given["method"], result["failed"], *[NONE] * (len(_COLUMNS) - 3)]]
    return [_row(result, side, peak_tflops) for side in NAMES if side in result]


def _row(result: Result, side: str, peak_tflops: float) -> list[str]:
    given, measured = result["combination"], result[side]
    cells = [given["base"], given["method"], NAMES[side]]
    if measured["out_of_memory"]:
        return [*cells, f"out of memory at {measured['out_of_memory']}", *[NONE] * (len(_COLUMNS) - 4)]
    seconds, speed, theirs = (
        _seconds(result, side),
        tokens_per_second(result, side),
        tokens_per_second(result, "trainer"),
    )
    if speed is None:
        return [*cells, "no step in time", *[NONE] * (len(_COLUMNS) - 4)]
    rate = result["flops"] / sum(seconds) / 1e12
    difference = loss_difference(result)
    both = side == "ours" and theirs is not None
    cpu_ratio = _cpu_ratio(result) if both else None
    return [
        *cells,
        f"{speed:,.0f}",
        f"{speed / theirs:.2f}" if both and theirs else NONE,
        f"{cpu_ratio:.2f}" if cpu_ratio else NONE,
        f"{statistics.median(seconds):.3f}",
        f"{sorted(seconds)[-(-len(seconds) * 95 // 100) - 1]:.3f}",
        f"{measured['peak_mib']:,.0f}" if measured["peak_mib"] else NONE,
        f"{result['flops'] / result['tokens'] / 1e6:,.1f}",
        f"{rate:.3g}",
        f"{rate / peak_tflops:.1%}" if given["device"] != "cpu" else NONE,
        f"{difference:.1e}" if both and difference is not None else NONE,
        f"{result['steps']}, {'by turns' if result['by_turns'] else 'one side after the other'}" if both else NONE,
    ]


def _losses(result: Result) -> list[str]:
    given = result["combination"]
    return [
        f"{given['base']} {given['method']} {NAMES[side]}: {' '.join(f'{loss:.5f}' for loss in result[side]['losses'])}"
        for side in NAMES
        if side in result
    ]


def _setting(result: Result) -> str:
    given = result["combination"]
    device = result.get("device_name", given["device"])
    kind = f"{given['threads']} thread(s), fp32" if given["device"] == "cpu" else "bf16"
    libraries = ", ".join(f"{name} {version}" for name, version in result.get("versions", {}).items())
    return (
        f"{device}, {kind}: {given['lengths']} rows, {given['batch_rows']} a step; HF Trainer in batches of "
        f"{given['trainer_rows']}" + (f" ({libraries})" if libraries else "")
    )
