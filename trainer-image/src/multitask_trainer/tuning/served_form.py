"""Adapters as they are served beside the base: their files, and whether they compute what PEFT trains.

The latter is tried with a random one, before anything is trained.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from multitask_serving.engine.model.active_adapters import ActiveAdapters
from multitask_serving.engine.model.adapters import LoraWeights, attach_adapters
from multitask_trainer.base_model.loading import Precision
from multitask_trainer.errors import StageError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ROWS, _LENGTH = 3, 6
_TOLERANCE = 1e-3
"""Largest difference of logits in fp32, in standard deviations of the logits. Measured: below 1e-5."""


def write_adapter(folder: Path, tensors: Mapping[str, Tensor], *, rank: int, scaling: float) -> None:
    """``adapter.safetensors`` (``L.A``, ``L.B`` for each layer L, in their dtype) and ``adapter.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(tensors), folder / "adapter.safetensors")
    (folder / "adapter.json").write_text(json.dumps({"rank": rank, "scaling": scaling}), "utf-8")


def check_served_form(
    load: Callable[[], PreTrainedModel],
    prepare: Callable[[PreTrainedModel], nn.Module],
    served_weights: Callable[[nn.Module], LoraWeights],
    precision: Precision,
    *,
    method: str = "LoRA",
    selected: Callable[[nn.Module], AbstractContextManager[None]] = lambda _: nullcontext(),
) -> None:
    """Compare one random adapter as PEFT runs it with the same one in a batch whose middle row has none.

    ``load`` gives the base in fp32, anew each time, so that one copy of it is in memory. ``prepare`` wraps it for
    training, ``selected`` gives the context in which that computes with the adapter in all rows, and ``served_weights``
    takes the adapter from it. ``method`` is its name in the resource. Raises `StageError` where the two differ, or
    where one of them cannot be run.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = load()
        name = type(model).__name__
        with _explained(method, name, "cannot be trained"):
            trained = prepare(model)
            _randomise(trained)
            with selected(trained):
                expected, weights = _logits(trained), served_weights(trained)
    del model, trained
    model = load()
    with _explained(method, name, "cannot be served"):
        untouched = _logits(model)
        active = ActiveAdapters(model.device)
        attach_adapters(model, [weights], active)
        with active.use([1] * _ROWS):
            alone = _logits(model)
        with active.use([1, 0, 1]):
            mixed = _logits(model)
    expected_mixed = torch.stack([expected[0], untouched[1], expected[2]])
    difference = max(_difference(alone, expected), _difference(mixed, expected_mixed))
    if not difference <= _TOLERANCE:
        raise _refused(
            method,
            f"adapters of {name} would not be served as they are trained (by {difference:.2g} standard deviations)",
        )
    if precision == "bf16":
        with _explained(method, name, "cannot be served in bf16"), active.use([1, 0, 1]):
            _logits(model.to(torch.bfloat16))  # type: ignore[arg-type]


def _randomise(trained: nn.Module) -> None:
    """Give B, which begins as zeros, values like those of the first layer's weights."""
    spread = next(value for value in trained.parameters() if value.ndim > 1).detach().float().std()
    with torch.no_grad():
        for name, value in trained.named_parameters():
            if "lora_B" in name:
                value.copy_(torch.randn_like(value) * spread)


def _logits(model: nn.Module) -> Tensor:
    """(3, 6, V) of ids spread over the vocabulary, fp32."""
    size: int = model.config.get_text_config().vocab_size  # type: ignore[union-attr, operator]
    device = next(model.parameters()).device
    ids = (torch.arange(_ROWS * _LENGTH, device=device) * max(1, size // 23) % size).reshape(_ROWS, -1)
    with torch.inference_mode():
        logits: Tensor = model.eval()(input_ids=ids, use_cache=False).logits
    return logits.float()


def _difference(actual: Tensor, expected: Tensor) -> float:
    difference = (actual - expected).abs().max() / expected.std()
    return float("inf") if difference.isnan() else float(difference)


@contextmanager
def _explained(method: str, name: str, what: str) -> Iterator[None]:
    """A context that turns whatever a family raises into a reason not to use ``method`` with it."""
    try:
        yield
    except StageError:
        raise
    except Exception as error:
        words = shorten(f"{type(error).__name__}: {error}", 200, placeholder=" …")
        raise _refused(method, f"adapters of {name} {what} ({words})") from error


def _refused(method: str, problem: str) -> StageError:
    return StageError(f"tuning.method: {method}: {problem}. Use method Full, or another base model")
