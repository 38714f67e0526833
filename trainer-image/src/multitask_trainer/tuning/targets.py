"""Which layers of a base model LoRA can adapt: the projections of the text decoder, found by what a forward pass runs.

Names do not tell: a vision tower has a ``q_proj`` too, a router may be an ``nn.Linear``, GPT-2's projections are
``Conv1D``, and a mixture-of-experts layer may keep all its experts in one parameter. So a small batch goes through the
decoder, and what each layer is given decides. A layer must see whole rows, because the engine adds each row's own
adapter to it; a layer that is given only the tokens which a router chose does not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from multitask_serving.engine.model.adapters import linear_features
from multitask_serving.engine.model.backbone import Backbone, eval_mode
from multitask_trainer.base_model.quantization import is_quantized

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ROWS, _LENGTH = 3, 5
"""Two primes: the first size of an input tells whether it is rows, or all tokens of the rows."""
_ROUTER = re.compile(r"Router|MoE\w*Gate|TopK\w*Gate")
_READ_PAST_ADAPTERS = {"out_proj", "x_proj", "dt_proj"}
"""Layers of a Mamba mixer whose weight its fused kernels read themselves, past any adapter."""
_STATE_SPACE = {"A_log", "D"}
"""The parameters that every Mamba mixer has, whatever its class is called."""
_NOT_PROJECTIONS = (nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Excluded:
    """A layer, or a stacked parameter, that is not adapted."""

    path: str
    kind: str
    """The class of the layer."""
    reason: str
    is_projection: bool = True
    """Whether LoRA would adapt it if it could; false for a router, the head, or what text does not use."""


@dataclass(frozen=True)
class LoraTargets:
    """The paths of linear layers and of stacked expert weights that can be adapted, and what cannot, and why."""

    linear: tuple[str, ...]
    experts: tuple[str, ...]
    excluded: tuple[Excluded, ...]

    def named(self, names: Sequence[str]) -> LoraTargets:
        """Those whose path ends in one of ``names``; for stacked weights their module's name will do."""
        return LoraTargets(
            tuple(path for path in self.linear if _last(path) in names),
            tuple(path for path in self.experts if _last(path) in names or path.split(".")[-2] in names),
            self.excluded,
        )

    @property
    def names(self) -> list[str]:
        """The last parts of all paths, each once."""
        return sorted({_last(path) for path in (*self.linear, *self.experts)})

    def linear_only(self, reason: str) -> LoraTargets:
        """Without the stacked expert weights, which are excluded for ``reason``."""
        stacks = tuple(Excluded(path, "stacked expert weights", reason) for path in self.experts)
        return LoraTargets(self.linear, (), (*self.excluded, *stacks))

    def notices(self, method: str = "LoRA") -> list[str]:
        """A sentence for each kind of projection that keeps its weights because ``method`` cannot adapt it."""
        kinds: dict[tuple[str, str], set[str]] = {}
        for item in self.excluded:
            if item.is_projection:
                kinds.setdefault((item.kind, item.reason), set()).add(_pattern(item.path))
        return [
            f"{method} does not adapt {', '.join(sorted(paths))} ({kind}): {reason}"
            for (kind, reason), paths in sorted(kinds.items())
        ]

    def why_not(self, name: str) -> str | None:
        """Why the layers called ``name`` are left out; None if there are none."""
        return next((item.reason for item in self.excluded if name in item.path.split(".")[-2:]), None)


def find_targets(model: PreTrainedModel, *, dropout: float = 0.0) -> LoraTargets:
    """Run a small batch through the decoder of ``model`` and sort its layers; ``dropout`` is ``tuning.dropout``."""
    calls = _calls(model)
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    modules = dict(model.named_modules())
    linear: list[str] = []
    experts: list[str] = []
    excluded: list[Excluded] = []
    for path, module in modules.items():
        for item in _candidates(path, module, calls.get(path, [])):
            problem = _problem(item, module, modules, calls.get(path, []), head=head, dropout=dropout)
            if problem is not None:
                excluded.append(problem)
            else:
                (linear if item == path else experts).append(item)
    # A layer that was given whole rows by chance: its like elsewhere was not.
    partial = {_pattern(item.path) for item in excluded if item.reason == _PARTIAL}
    for path in [path for path in linear if _pattern(path) in partial]:
        linear.remove(path)
        excluded.append(Excluded(path, type(modules[path]).__name__, _PARTIAL))
    return LoraTargets(tuple(linear), tuple(experts), tuple(excluded))


@dataclass(frozen=True)
class _Call:
    inputs: tuple[tuple[int, ...] | None, ...]
    """The shape of each positional argument; None for one that is no tensor."""
    keywords: bool
    output: tuple[int, ...] | None


def _calls(model: PreTrainedModel) -> Mapping[str, list[_Call]]:
    """Each module that runs → its calls in one forward pass of the decoder."""
    calls: dict[str, list[_Call]] = {}
    hooks = []
    for path, module in model.named_modules():

        def record(_: nn.Module, args: Any, kwargs: Any, output: Any, path: str = path) -> None:
            calls.setdefault(path, []).append(_Call(tuple(map(_shape, args)), bool(kwargs), _shape(output)))

        hooks.append(module.register_forward_hook(record, with_kwargs=True))
    decoder = Backbone.of(model).decoder
    device = next(decoder.parameters()).device
    vocabulary = model.config.get_text_config().vocab_size
    # Ids spread over the vocabulary, so that a router does not send all of them the same way.
    ids = (torch.arange(_ROWS * _LENGTH, device=device) * max(1, vocabulary // 17) % vocabulary).reshape(_ROWS, -1)
    try:
        with eval_mode(model), torch.random.fork_rng(devices=[]):
            decoder(input_ids=ids, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _shape(value: object) -> tuple[int, ...] | None:
    return tuple(value.shape) if isinstance(value, Tensor) else None


def _candidates(path: str, module: nn.Module, calls: Sequence[_Call]) -> Iterator[str]:
    """The path of a module with a weight that multiplies its input, or of each stack of weights that it holds."""
    if linear_features(module) is not None:
        yield path
        return
    if isinstance(module, _NOT_PROJECTIONS):
        return
    for name, value in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
        multiplies = any(
            call.output and call.inputs and call.inputs[0] and {call.inputs[0][-1], call.output[-1]} <= {*value.shape}
            for call in calls
        )
        is_weight = multiplies or _ROUTER.search(type(module).__name__) or not value.is_floating_point()
        if value.ndim == 3 or (value.ndim == 2 and "weight" in name and is_weight):
            yield f"{path}.{name}"


_UNUSED = "no forward pass of text runs it"
_PARTIAL = (
    "it is given only some tokens, such as a router chooses, or in another shape, and the engine cannot tell of which "
    "rows they are"
)
_OTHER_STACK = (
    "its stacked weights are not applied as those of experts are, to all tokens with the experts chosen for each"
)
_QUANTISED = "its weights are quantised; use the base model in bf16, fp16 or fp32"


def _problem(
    item: str,
    module: nn.Module,
    modules: Mapping[str, nn.Module],
    calls: Sequence[_Call],
    *,
    head: nn.Module | None,
    dropout: float,
) -> Excluded | None:
    """Why ``item``, of ``module``, is not adapted; None if it is."""
    path = item if linear_features(module) is not None else item.rpartition(".")[0]
    kind = type(module).__name__

    def no(reason: str, *, is_projection: bool = True) -> Excluded:
        return Excluded(item, kind, reason, is_projection)

    if module is head:
        return no("it is the output head", is_projection=False)
    if not calls:
        return no(_UNUSED, is_projection=False)
    if _is_router(path, modules):
        return no("it is a router", is_projection=False)
    if path != item:
        return _stack_problem(item, module, calls, no, dropout=dropout)
    if not module.get_parameter("weight").is_floating_point() and not is_quantized(module):
        return no(_QUANTISED)
    if _is_read_past_adapters(path, modules):
        return no("the fused kernels of state-space layers may read its weight without the adapter")
    if not all(call.inputs and _has_whole_rows(call.inputs[0]) for call in calls):
        return no(_PARTIAL)
    return None


def _stack_problem(item: str, module: nn.Module, calls: Sequence[_Call], no: Any, *, dropout: float) -> Excluded | None:
    tensor = getattr(module, _last(item))
    if not tensor.is_floating_point():
        problem: Excluded | None = no(_QUANTISED)
    elif tensor.ndim == 2 or not isinstance(tensor, nn.Parameter):
        problem = no("layers of this class cannot be adapted")
    elif not all(_is_call_of_experts(call) for call in calls):
        problem = no(_OTHER_STACK)
    elif dropout:
        problem = no("stacked expert weights cannot have dropout; with tuning.dropout 0 they are adapted too")
    else:
        problem = None
    return problem


def _has_whole_rows(shape: tuple[int, ...] | None) -> bool:
    return shape is not None and (shape[0] == _ROWS or shape[0] == _ROWS * _LENGTH or shape[:2] == (1, _ROWS * _LENGTH))


def _is_call_of_experts(call: _Call) -> bool:
    """All tokens, and with each the experts chosen for it and their weights."""
    tokens = _ROWS * _LENGTH
    same = all(shape is not None and shape[0] == tokens for shape in call.inputs)
    return same and len(call.inputs) > 1 and not call.keywords and call.output == call.inputs[0]


def _is_router(path: str, modules: Mapping[str, nn.Module]) -> bool:
    """Part of a router's class, or a linear layer beside experts that gives one number an expert, or one in all."""
    parts = path.split(".")
    if any(_ROUTER.search(type(modules[".".join(parts[:end])]).__name__) for end in range(1, len(parts) + 1)):
        return True
    features = linear_features(modules[path])
    beside = _experts_of(modules[path.rpartition(".")[0]]) if features else None
    return beside is not None and features is not None and features[1] in (1, beside)


def _experts_of(module: nn.Module) -> int | None:
    """How many experts a mixture-of-experts module has; None for other modules."""
    for name, child in module.named_children():
        if "expert" not in name:
            continue
        if isinstance(child, nn.ModuleList):
            return len(child)
        stacks = [value for value in child.parameters(recurse=False) if value.ndim == 3]
        if stacks:
            return len(stacks[0])
    return None


def _is_read_past_adapters(path: str, modules: Mapping[str, nn.Module]) -> bool:
    parent, _, name = path.rpartition(".")
    return name in _READ_PAST_ADAPTERS and all(hasattr(modules[parent], each) for each in _STATE_SPACE)


def _last(path: str) -> str:
    return path.rpartition(".")[2]


def _pattern(path: str) -> str:
    """The path with ``*`` for numbers: the layers of one kind have one pattern."""
    return re.sub(r"(?<=\.)\d+(?=\.)", "*", path)
