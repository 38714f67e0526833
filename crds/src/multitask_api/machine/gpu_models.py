"""GPUs by the names that NVIDIA's driver gives them, with what their data sheets say."""

from __future__ import annotations

from dataclasses import dataclass

GIB = 2**30

#: Part of a name → GiB of memory if the name does not say, TFLOP/s in bf16 (T4 and V100: fp16), dense. Of two parts
#: that fit a name the longer one counts.
_SHEETS: dict[str, tuple[int, float]] = {
    "T4": (15, 65), "V100": (32, 125), "L4": (23, 121), "A10": (23, 125), "A10G": (23, 70), "A40": (46, 150),
    "A30": (24, 165), "L40": (46, 181), "L40S": (46, 362), "A100": (80, 312), "H100": (80, 989), "H100 NVL": (94, 835),
    "H200": (141, 989), "B200": (180, 2250), "RTX 3090": (24, 71), "RTX 4090": (24, 165), "RTX 5090": (32, 209),
    "RTX A6000": (48, 155), "RTX 6000 Ada": (48, 364),
}  # fmt: skip


@dataclass(frozen=True)
class GpuModel:
    """``flops``: peak operations a second in bf16; None for a GPU whose data sheet is not known here."""

    name: str
    memory: int
    """Bytes."""
    flops: float | None


def known_gpu(name: str) -> GpuModel | None:
    """The GPU called ``name``, such as ``A100-40GB`` or ``NVIDIA L4``: with the memory it names, else the usual one.

    None for a slice of a GPU (MIG), which has a part of its memory and speed.
    """
    words = name.upper().replace("-", " ").replace("_", " ").split()
    if "MIG" in words:
        return None
    found = [sheet for sheet in _SHEETS if _has(words, sheet.upper().split())]
    if not found:
        return None
    memory, tflops = _SHEETS[max(found, key=len)]
    sizes = [int(word[:-2]) for word in words if word.endswith("GB") and word[:-2].isdigit()]
    return GpuModel(name, (sizes[0] if sizes else memory) * GIB, tflops * 1e12)


def known_names() -> str:
    """The names of all GPUs that are known, for messages."""
    return ", ".join(_SHEETS)


def _has(words: list[str], part: list[str]) -> bool:
    return any(words[start : start + len(part)] == part for start in range(len(words)))
