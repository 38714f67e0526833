"""GPUs by the names that NVIDIA's driver gives them, with their memory and peak speed.

Speeds are those of NVIDIA's data sheets ("NVIDIA L4 Tensor Core GPU", "NVIDIA H100 Tensor Core GPU" and so on; of RTX
3090, 4090, 5090 and A6000 of the white papers of the architectures GA102, Ada and RTX Blackwell): of tensor cores in
bf16 with sums in fp32, without sparsity. Where a sheet says only what sparsity gives, half of it. T4 and V100 have no
bf16; theirs is of fp32. Memory is what nvidia-smi reports, with error correction where it is on by default.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

GIB = 2**30
_MIB = 2**20

#: Part of a name → GB of memory in names, MiB of it as nvidia-smi says, TFLOP/s (None: not confirmed by a data sheet).
#: Of two parts that fit a name the longer one counts.
_SHEETS: dict[str, tuple[int, int, float | None]] = {
    "T4": (16, 15360, 8.1), "V100": (32, 32510, 15.7), "V100 PCIe": (32, 32510, 14), "L4": (24, 23034, 121),
    "A10": (24, 23028, 125), "A10G": (24, 23028, None), "A40": (48, 46068, 149.7), "A30": (24, 24258, 165),
    "L40": (48, 46068, 181), "L40S": (48, 46068, 362), "A100": (80, 81920, 312), "H100": (80, 81559, 989),
    "H100 PCIe": (80, 81559, 756), "H100 NVL": (94, 95830, 835), "H200": (141, 143771, 989),
    "H200 NVL": (141, 143771, 835), "B200": (180, 183359, 2250), "RTX 3090": (24, 24258, 71),
    "RTX 4090": (24, 24564, 165), "RTX 5090": (32, 32607, 209.5), "RTX A6000": (48, 49140, 154.8),
    "RTX 6000 Ada": (48, 49140, None),
}  # fmt: skip
#: GB of memory in names, of the GPUs that come with less, too.
_OTHER_SIZES = {"V100": 16, "V100 PCIe": 16, "A100": 40}
#: CUDA's compute capability of those below `_WITH_BF16`.
_CAPABILITIES = {"T4": 7.5, "V100": 7.0, "V100 PCIe": 7.0}
_WITH_BF16 = 8.0
_OLDEST = 7.5
"""Compute capability of the oldest GPU that PyTorch has kernels for in its builds for CUDA 13."""
_MAKES = ("NVIDIA", "TESLA", "GEFORCE")


@dataclass(frozen=True)
class GpuModel:
    """``flops``: peak operations a second in bf16, in fp32 where there is no bf16; None if it is not known here."""

    name: str
    memory: int
    """Bytes."""
    flops: float | None
    capability: float = _WITH_BF16
    """CUDA's compute capability, at least."""

    @property
    def has_bf16(self) -> bool:
        """Whether it multiplies in bf16. Older ones only emulate it."""
        return self.capability >= _WITH_BF16

    @property
    def is_too_old(self) -> bool:
        """Whether PyTorch has no kernels for it any more."""
        return self.capability < _OLDEST


def known_gpu(name: str) -> GpuModel | None:
    """The GPU called ``name``, such as ``A100-40GB`` or ``NVIDIA L4``: with the memory it names, else the usual one.

    None for a slice of a GPU (MIG), which has a part of its memory and speed.
    """
    sheet, words = _sheet_of(name), _words(name)
    if sheet is None:
        return None
    usual, mebibytes, tflops = _SHEETS[sheet]
    sizes = _sizes(words)
    memory = sizes[0] * GIB if sizes and sizes[0] != usual else mebibytes * _MIB
    return GpuModel(name, memory, tflops * 1e12 if tflops else None, _CAPABILITIES.get(sheet, _WITH_BF16))


def sold_gpu(name: str) -> GpuModel | None:
    """As `known_gpu`, of what a person writes: None too for an amount of memory that such a GPU does not come with.

    An amount alone, such as ``24GB``, is a GPU of which no more is known.
    """
    sheet, words = _sheet_of(name), _words(name)
    sizes = _sizes(words)
    if sheet is None:
        return GpuModel(f"a GPU with {sizes[0]} GB", sizes[0] * 10**9, None) if sizes and len(words) == 1 else None
    return known_gpu(name) if set(sizes) <= {_SHEETS[sheet][0], _OTHER_SIZES.get(sheet)} else None


def near_names(name: str) -> list[str]:
    """The names of GPUs that are most like ``name``, which is none; empty if none is like it."""
    sheet = _sheet_of(name)
    if sheet is not None:
        return [f"{sheet}-{size}GB" for size in (_OTHER_SIZES.get(sheet), _SHEETS[sheet][0]) if size]
    squeezed = {_squeezed(sheet.upper().split()): sheet for sheet in _SHEETS}
    return [squeezed[near] for near in difflib.get_close_matches(_squeezed(_words(name)), squeezed, n=4)]


def known_names() -> str:
    """The names of all GPUs that are known, for messages."""
    return ", ".join(_SHEETS)


def _sheet_of(name: str) -> str | None:
    words = _words(name)
    if _is_slice(words):
        return None
    found = [sheet for sheet in _SHEETS if _has(words, sheet.upper().split())]
    found = found or [sheet for sheet in _SHEETS if _squeezed(sheet.upper().split()) == _squeezed(words)]
    return max(found, key=len) if found else None


def _words(name: str) -> list[str]:
    return name.upper().replace("-", " ").replace("_", " ").split()


def _squeezed(words: list[str]) -> str:
    """In one word, without the make and the memory."""
    return "".join(word for word in words if word not in _MAKES and not _sizes([word]))


def _sizes(words: list[str]) -> list[int]:
    return [int(word[:-2]) for word in words if word.endswith("GB") and word[:-2].isdigit()]


def _is_slice(words: list[str]) -> bool:
    return "MIG" in words or any(re.fullmatch(r"\d+G\.\d+GB", word) for word in words)


def _has(words: list[str], part: list[str]) -> bool:
    return any(words[start : start + len(part)] == part for start in range(len(words)))
