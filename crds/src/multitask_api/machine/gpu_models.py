"""GPUs by the names that NVIDIA's driver gives them, with their memory and peak speed.

Speeds are those of NVIDIA's data sheets ("NVIDIA L4 Tensor Core GPU", "NVIDIA H100 Tensor Core GPU" and so on; of RTX
3090, 4090, 5090 and A6000 of the white papers of the architectures GA102, Ada and RTX Blackwell): of tensor cores in
bf16 with sums in fp32, without sparsity. Where a sheet says only what sparsity gives, half of it. T4 and V100 have no
bf16; theirs is of fp16. Memory is what nvidia-smi reports, with error correction where it is on by default.
"""

from __future__ import annotations

from dataclasses import dataclass

GIB = 2**30
_MIB = 2**20

#: Part of a name → GB of memory in names, MiB of it as nvidia-smi says, TFLOP/s (None: not confirmed by a data sheet).
#: Of two parts that fit a name the longer one counts.
_SHEETS: dict[str, tuple[int, int, float | None]] = {
    "T4": (16, 15360, 65), "V100": (32, 32510, 125), "V100 PCIe": (32, 32510, 112), "L4": (24, 23034, 121),
    "A10": (24, 23028, 125), "A10G": (24, 23028, None), "A40": (48, 46068, 149.7), "A30": (24, 24258, 165),
    "L40": (48, 46068, 181), "L40S": (48, 46068, 362), "A100": (80, 81920, 312), "H100": (80, 81559, 989),
    "H100 PCIe": (80, 81559, 756), "H100 NVL": (94, 95830, 835), "H200": (141, 143771, 989),
    "H200 NVL": (141, 143771, 835), "B200": (180, 183359, 2250), "RTX 3090": (24, 24258, 71),
    "RTX 4090": (24, 24564, 165), "RTX 5090": (32, 32607, 209.5), "RTX A6000": (48, 49140, 154.8),
    "RTX 6000 Ada": (48, 49140, None),
}  # fmt: skip


@dataclass(frozen=True)
class GpuModel:
    """``flops``: peak operations a second in bf16; None for a GPU of which it is not known here."""

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
    usual, mebibytes, tflops = _SHEETS[max(found, key=len)]
    sizes = [int(word[:-2]) for word in words if word.endswith("GB") and word[:-2].isdigit()]
    memory = sizes[0] * GIB if sizes and sizes[0] != usual else mebibytes * _MIB
    return GpuModel(name, memory, tflops * 1e12 if tflops else None)


def known_names() -> str:
    """The names of all GPUs that are known, for messages."""
    return ", ".join(_SHEETS)


def _has(words: list[str], part: list[str]) -> bool:
    return any(words[start : start + len(part)] == part for start in range(len(words)))
