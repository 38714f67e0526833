"""One adapter as a folder of PEFT: ``adapter_config.json`` and ``adapter_model.safetensors``.

Every layer has the same rank r, ``lora_alpha`` is r, and so PEFT's factor lora_alpha / r is 1: the scaling is in B.
Ranks are filled up with zeros, which changes no product: [A; 0] and [B 0] give B A.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import save_file
from torch.nn.functional import pad

from multitask_api.errors import UserError
from multitask_serving.engine.model.adapters import LoraWeights
from multitask_trainer.storage.files import write_atomically

VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes for ``--max-lora-rank`` (``MaxLoRARanks`` in ``vllm/config/lora.py``; newer ones also take 1)."""


def padded_rank(rank: int, ranks: Sequence[int]) -> int:
    """The smallest of ``ranks`` that is not below ``rank``. Raises `UserError` if none is."""
    for allowed in ranks:
        if rank <= allowed:
            return allowed
    raise UserError(
        f"an adapter of rank {rank} is above {ranks[-1]}, the largest rank that the engine takes; train with a lower"
        " tuning.rank, or export with --to peft"
    )


def adapter_config(paths: Sequence[str], rank: int, base: str) -> dict[str, object]:
    """``adapter_config.json`` of a LoRA of ``rank`` on the linear layers at ``paths`` of the model ``base``."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
        # Complete paths: a last name alone may also be that of a layer that is not adapted.
        "target_modules": sorted(paths),
        "modules_to_save": None,
    }


def write_peft_folder(folder: Path, weights: LoraWeights, rank: int, base: str) -> None:
    """Write the adapter ``weights``, filled up to ``rank``, for the model that is called ``base`` where it is served.

    The weights are fp32: folding the scaling into B in a shorter type would round it.
    """
    folder.mkdir(parents=True)
    tensors = {}
    for path, (a, b) in weights.items():
        missing = rank - a.shape[0]
        tensors[f"base_model.model.{path}.lora_A.weight"] = pad(a, (0, 0, 0, missing)).contiguous()
        tensors[f"base_model.model.{path}.lora_B.weight"] = pad(b, (0, missing)).contiguous()
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = adapter_config(list(weights), rank, base)
    write_atomically(folder / "adapter_config.json", json.dumps(config, indent=1, sort_keys=True) + "\n")
