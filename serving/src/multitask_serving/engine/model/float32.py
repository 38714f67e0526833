"""How a GPU multiplies fp32 matrices: the one place that sets it, for training, evaluation and Triton's backend.

TF32 keeps 10 bits of the mantissa and is several times faster. Training uses it. Answers do not: an error of 1e-3
would exceed the margin under which an answer counts as a near tie, and served answers would differ from measured ones
whenever a process had another setting. The setting is torch's, for the whole process, so whoever computes sets it.
"""

from __future__ import annotations

import torch


def use_tf32(*, enabled: bool) -> None:
    """Let this process multiply and convolve fp32 matrices in TF32, or not. Of no effect on a CPU, and on bf16."""
    torch.set_float32_matmul_precision("high" if enabled else "highest")
    torch.backends.cudnn.allow_tf32 = enabled
