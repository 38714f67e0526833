"""The files with which vLLM, alone or in Triton, serves a base with many adapters.

Written after https://docs.vllm.ai/en/latest/features/lora.html and
https://github.com/triton-inference-server/vllm_backend (``docs/llama_multi_lora_tutorial.md``, ``src/model.py``).
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path

DTYPE = "bfloat16"
"""vLLM's kernels for LoRA take 16-bit types only; in bf16 no weight of an fp32 model is out of range."""

CONFIG_PBTXT = """\
backend: "vllm"

# vLLM chooses its devices itself.
instance_group [
  {
    count: 1
    kind: KIND_MODEL
  }
]
"""


def lora_modules(adapters: Mapping[str, Path], base: str) -> list[dict[str, str]]:
    """The values of ``--lora-modules``, each a JSON object; ``adapters`` is name → folder."""
    return [{"name": name, "path": str(path), "base_model_name": base} for name, path in adapters.items()]


def vllm_command(adapters: Mapping[str, Path], base: str, rank: int) -> str:
    """The command that serves ``base`` with ``adapters``, as a script for a shell."""
    words = [
        ["vllm", "serve", base],
        ["--dtype", DTYPE],
        ["--enable-lora"],
        ["--max-lora-rank", str(rank)],
        # One batch may use them all; vLLM reserves memory for so many at the largest rank.
        ["--max-loras", str(len(adapters))],
        ["--lora-modules", *(json.dumps(module) for module in lora_modules(adapters, base))],
    ]
    return "#!/bin/sh\nexec " + " \\\n  ".join(shlex.join(each) for each in words) + "\n"


def triton_model(base: str, rank: int, count: int) -> dict[str, object]:
    """``1/model.json``: the arguments of vLLM's engine for ``count`` adapters of at most ``rank``."""
    return {"model": base, "dtype": DTYPE, "enable_lora": True, "max_lora_rank": rank, "max_loras": count}


def multi_lora(adapters: Mapping[str, Path]) -> dict[str, str]:
    """``1/multi_lora.json``: the name that a request gives as ``lora_name`` → the adapter's folder."""
    return {name: str(path) for name, path in adapters.items()}
