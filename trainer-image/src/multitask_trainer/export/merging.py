"""Merges an adapter into the base: the model as training and engine load it, saved by the library, and compared."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from multitask_api.bundle import Adapter, ServedModel
from multitask_serving.engine.model.active_adapters import ActiveAdapters
from multitask_serving.engine.model.adapters import add_to_weights, attach_adapters
from multitask_serving.engine.model.loading import load_model, read_adapter
from multitask_trainer.base_model.loading import Precision, load_base
from multitask_trainer.base_model.saving import save_served_model
from multitask_trainer.errors import MergeChangesModel
from multitask_trainer.export.bundle import with_forward_path
from multitask_trainer.export.weights import DTYPE_NAMES

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_TOLERANCE: dict[Precision, float] = {"fp32": 1e-3, "bf16": 0.1}
"""Largest difference of logits, as a part of their largest size. bf16 has 8 bits, and rounding adds up over layers; a
weight that was lost or put elsewhere changes logits by about their own size."""


def merge_adapter(base: Path, bundle: Path, adapter: Adapter, target: Path, precision: Precision) -> None:
    """Write the model W + scaling · B A to ``target``, summed in fp32 and cast once.

    ``base`` is a transformers folder in fp32, ``bundle`` the folder in which ``adapter`` has its path. Raises
    `MergeChangesModel` if what was written, read again, does not compute what base and adapter do.
    """
    weights = read_adapter(bundle, adapter)
    model = load_base(base)
    active = ActiveAdapters(model.device)
    attach_adapters(model, [weights], active)
    with active.use([1]):
        unmerged = _logits(model)
    del model  # one copy of the base in memory at a time
    model = load_base(base)
    add_to_weights(model, weights)
    _compare(unmerged, _logits(model), "fp32", "merged")
    save_served_model(model, base, target, precision)
    del model
    served = with_forward_path(ServedModel(name=adapter.name, path=target.name, dtype=DTYPE_NAMES[precision]), base)
    _compare(unmerged, _logits(load_model(target.parent, served).model), precision, "merged, saved and read again")


def _logits(model: PreTrainedModel) -> Tensor:
    """(1, 8, V) of a few ids spread over the vocabulary."""
    size = model.config.get_text_config().vocab_size
    ids = (torch.arange(8, device=model.device) * max(1, size // 11) % size)[None]
    with torch.inference_mode():
        logits: Tensor = model.eval()(input_ids=ids, use_cache=False).logits  # type: ignore[no-untyped-call]
    return logits.float()


def _compare(expected: Tensor, actual: Tensor, precision: Precision, what: str) -> None:
    difference = float((expected - actual).abs().max() / expected.abs().max())
    if not difference <= _TOLERANCE[precision]:  # also if it is NaN
        raise MergeChangesModel(
            f"the adapter, {what}, changes logits by {difference:.2g} of their largest size; it is served unmerged"
        )
