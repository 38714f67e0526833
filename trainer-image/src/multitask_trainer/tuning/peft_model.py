"""What all methods of PEFT share here: a base model is wrapped by one, and an adapter is saved in the same bytes."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from multitask_trainer.base_model.quantization import is_quantized
from multitask_trainer.storage.files import drop_library_versions
from multitask_trainer.tuning.peft_import import use_bitsandbytes

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PreTrainedModel

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
"""What the names of PEFT put before a path in the base model."""
_NAMES = ("target_modules", "target_parameters")


def wrap(model: PreTrainedModel, config: PeftConfig) -> nn.Module:
    """The PEFT model of ``config``, with the layers that it names as they are called in ``model``."""
    from peft import get_peft_model

    if any(is_quantized(module) for module in model.modules()):
        use_bitsandbytes()
    with warnings.catch_warnings(), _names_as_they_are(model):
        # PEFT uses a name that transformers has deprecated.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        # A model may have both orientations of weights; PEFT then sets it for each layer and says so.
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to")
        adapted: nn.Module = get_peft_model(model, config)
    return adapted


def save_adapter(model: nn.Module, folder: Path) -> None:
    """Write an adapter folder of PEFT.

    PEFT keeps the layers in a set and the base's path on this machine: the same adapter must be the same bytes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    peft: Any = model
    peft.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's model card, with nothing filled in
    config = json.loads((folder / CONFIG).read_text("utf-8"))
    config |= {name: sorted(config[name]) for name in _NAMES if config.get(name)}
    config["base_model_name_or_path"] = None
    (folder / CONFIG).write_text(json.dumps(config, indent=1, sort_keys=True), "utf-8")
    drop_library_versions(folder)


@contextmanager
def _names_as_they_are(model: PreTrainedModel) -> Iterator[None]:
    """A context in which PEFT takes the names of layers as they are.

    For some types of models it takes them for those of transformers 4 and turns ``gate_proj`` into the stacked weights
    of transformers 5, also where a dense layer has that name.
    """
    config: Any = model.config
    own = vars(config).get("model_type")
    config.model_type = ""
    try:
        yield
    finally:
        if own is None:
            del config.model_type
        else:
            config.model_type = own
