"""LoRA (arXiv 2106.09685) through PEFT: low-rank deltas of the decoder's linear layers are trained, nothing else."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file, save_file
from torch import nn

from multitask_api.resource.training import Tuning
from multitask_trainer.base_model.loading import Precision, torch_dtype
from multitask_trainer.errors import StageError
from multitask_trainer.storage.files import drop_library_versions

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_CONFIG = "adapter_config.json"
_WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_PARTS = {".lora_A.weight": ".A", ".lora_B.weight": ".B"}


class Lora:
    """See `TuningMethod`. ``scaling`` is α / r; a layer computes W x + (α / r) B A x."""

    def __init__(self, tuning: Tuning) -> None:
        self._tuning = tuning

    def prepare(self, model: PreTrainedModel) -> nn.Module:
        """A PEFT model. Raises `StageError` if ``targetModules`` names a layer that the decoder does not have."""
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(
            task_type="CAUSAL_LM",
            r=self._tuning.rank,
            lora_alpha=self._tuning.alpha,  # type: ignore[arg-type]  # PEFT only divides it
            lora_dropout=self._tuning.dropout,
            target_modules=self._targets(model),
            bias="none",
        )
        with warnings.catch_warnings():  # PEFT uses a name that transformers has deprecated
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
            adapted: nn.Module = get_peft_model(model, config)
        return adapted

    def save(self, model: nn.Module, folder: Path) -> None:
        """A PEFT adapter folder."""
        folder.mkdir(parents=True, exist_ok=True)
        peft: Any = model
        peft.save_pretrained(str(folder), save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)  # PEFT's model card, with nothing filled in
        # PEFT keeps the layers in a set and the base's path on this machine: the same adapter must be the same bytes.
        config = json.loads((folder / _CONFIG).read_text("utf-8"))
        config |= {"target_modules": sorted(config["target_modules"]), "base_model_name_or_path": None}
        (folder / _CONFIG).write_text(json.dumps(config, indent=1, sort_keys=True), "utf-8")
        drop_library_versions(folder)

    def load(self, model: nn.Module, folder: Path) -> None:
        """Replace A and B of every layer."""
        from peft import get_peft_model_state_dict, set_peft_model_state_dict

        weights = load_file(folder / _WEIGHTS)
        expected = get_peft_model_state_dict(model)
        if {name: value.shape for name, value in weights.items()} != {name: v.shape for name, v in expected.items()}:
            raise StageError(f"{folder}: this adapter has other layers or another rank; redo the stage that made it")
        set_peft_model_state_dict(model, weights)

    def write_servable(self, base: Path, weights: Path, task: str, folder: Path, precision: Precision) -> None:
        """``adapter.safetensors`` (``L.A``, ``L.B`` for each layer L) in the final dtype, and ``adapter.json``."""
        del base, task  # all tasks of a run share the adapter, and it does not hold the base
        dtype = torch_dtype(precision)
        tensors = {_served_name(name): value.to(dtype) for name, value in load_file(weights / _WEIGHTS).items()}
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, folder / "adapter.safetensors")
        settings = {"rank": self._tuning.rank, "scaling": self._tuning.alpha / self._tuning.rank}
        (folder / "adapter.json").write_text(json.dumps(settings), "utf-8")

    def servable_key(self, task: str) -> str:
        """One adapter for all tasks."""
        del task
        return "adapter"

    def _targets(self, model: PreTrainedModel) -> list[str]:
        """The full names of the layers to adapt: linear layers below the output head, all or ``targetModules``."""
        head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
        layers = [
            name for name, module in model.named_modules() if isinstance(module, nn.Linear) and module is not head
        ]
        kinds = sorted({name.rpartition(".")[2] for name in layers})
        targets = self._tuning.target_modules
        missing = [name for name in targets if name not in kinds]
        if missing or not layers:
            raise StageError(
                f"tuning.targetModules: {', '.join(missing) or 'nothing to adapt'}: the base model's linear layers are "
                f"called {', '.join(kinds) or 'nothing'}; name some of those"
            )
        return [name for name in layers if not targets or name.rpartition(".")[2] in targets]


def _served_name(name: str) -> str:
    """``base_model.model.L.lora_A.weight`` → ``L.A``."""
    for ending, part in _PARTS.items():
        if name.startswith(_PREFIX) and name.endswith(ending):
            return name.removeprefix(_PREFIX).removesuffix(ending) + part
    raise StageError(f"the adapter holds {name!r}, which is not a low-rank factor; use plain LoRA settings")
