"""What a plan says of stages that do not fit into the memory of what they train on. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pydantic import ValidationError
from pydantic.alias_generators import to_camel

from multitask_api.estimates.fitting import USED, Fitted
from multitask_api.estimates.shape import ModelShape
from multitask_api.machine.gpu_models import GIB
from multitask_api.resource import MultiTaskModel, MultiTaskModelSpec
from multitask_api.resource.training import Training
from multitask_api.stages import Graph
from multitask_operator.planner.estimate import Estimate, estimate
from multitask_operator.planner.stage_costs import StageCost
from multitask_operator.planner.stage_memory import Device, can_divide_weights

_SHORT = 512
"""Tokens of rows below which a shorter limit changes little."""
_MOST_GPUS = 8
"""Of a machine, as most are built."""
_MOST_CHANGES = 4
"""Fields that one piece of advice names."""
_NOTHING_HELPS = "change spec.baseModel.uri to a smaller base, or take a GPU with more memory"


@dataclass(frozen=True)
class _Cure:
    """What to change, in words; where it is one field of the spec, ``path`` and the values to try, best first."""

    text: str
    path: tuple[str, ...] = ()
    values: tuple[object, ...] = ()

    def words(self, value: object) -> str:
        """The change of the field to ``value``; to None it is left out."""
        field = ".".join(["spec", *map(to_camel, self.path)])
        return f"leave out {field}" if value is None else f"change {field} to {value}"


@dataclass(frozen=True)
class _Change:
    """A cure with one of its values, and the plan with it."""

    cure: _Cure
    words: str
    model: MultiTaskModel
    estimate: Estimate


def misfits(model: MultiTaskModel, estimate: Estimate) -> Iterator[str]:
    """What does not fit and what to change: a sentence for all stages that the same changes help, with the largest."""
    device = estimate.device
    if device is None:
        return
    by_cures: dict[str, list[StageCost]] = {}
    for stage, fitted in _misfitting(estimate):
        cures = ", or ".join(cure.text for cure in _cures(model, stage, fitted, device))
        by_cures.setdefault(cures, []).append(stage)
    for cures, stages in by_cures.items():
        largest = max((stage.fitted for stage in stages if stage.fitted), key=lambda fitted: fitted.memory.total)
        memory, places = largest.memory, f"each of {largest.gpus} × {device.name}" if largest.gpus > 1 else device.name
        yield (
            f"{', '.join(stage.name for stage in stages)}: does not fit; training takes {memory.total / GIB:.1f} GiB"
            f" with one sequence of {largest.tokens:,} tokens (weights, gradients and optimizer"
            f" {memory.state / GIB:.1f}), and {places} has {device.memory / GIB:.1f}; {cures}"
        )


def next_change(model: MultiTaskModel, estimate: Estimate, replan: Callable[[MultiTaskModel], Estimate]) -> str | None:
    """The changes of fields with which every stage fits its GPU: one if one is enough, of these the one that costs
    least. None if all stages fit, or train on no GPU.

    ``replan`` estimates a changed model.
    """
    if estimate.device is None or not estimate.device.is_gpu or estimate.fits:
        return None
    made: list[str] = []
    for _ in range(_MOST_CHANGES):
        changes = list(_changes(model, estimate, replan))
        enough = next((change for change in changes if change.estimate.fits), None)
        if enough is not None:
            return ", and ".join([*made, enough.words])
        if not changes:
            break
        change = [each for each in changes if each.cure == changes[0].cure][-1]  # its strongest value
        made, model, estimate = [*made, change.words], change.model, change.estimate
    return _NOTHING_HELPS


def change_that_fits(
    model: MultiTaskModel,
    cost: Estimate,
    graph_of: Callable[[MultiTaskModel], Graph],
    device_for: Callable[[Training], Device | None],
    *,
    shape: ModelShape | None,
    places: int,
) -> str | None:
    """See `next_change`; a changed model is estimated by the graph and the device that the functions give."""

    def replan(changed: MultiTaskModel) -> Estimate:
        device = device_for(changed.spec.training)
        return estimate(changed, graph_of(changed), shape=shape, device=device, places=places)

    return next_change(model, cost, replan)


def _changes(
    model: MultiTaskModel, estimate: Estimate, replan: Callable[[MultiTaskModel], Estimate]
) -> Iterator[_Change]:
    """The valid changes of one field that make a difference for stages that do not fit."""
    device, before = estimate.device, [stage.fitted for stage in estimate.stages]
    if device is None:
        return
    cures = (cure for stage, fitted in _misfitting(estimate) for cure in _cures(model, stage, fitted, device))
    for cure in dict.fromkeys(cures):
        for value in cure.values:
            changed = _changed(model, cure.path, value)
            after = replan(changed) if changed else None
            if changed and after and [stage.fitted for stage in after.stages] != before:
                yield _Change(cure, cure.words(value), changed, after)


def _misfitting(estimate: Estimate) -> Iterator[tuple[StageCost, Fitted]]:
    return ((stage, stage.fitted) for stage in estimate.stages if stage.fitted is not None and not stage.fitted.fits)


def _changed(model: MultiTaskModel, path: tuple[str, ...], value: object) -> MultiTaskModel | None:
    """``model`` with another value of a field of its spec; None if that is not valid."""
    spec = model.spec
    update = {path[0]: getattr(spec, path[0]).model_copy(update={path[1]: value}) if len(path) > 1 else value}
    changed = spec.model_copy(update=update)
    try:
        MultiTaskModelSpec.model_validate(changed.to_json())
    except ValidationError:
        return None
    return model.model_copy(update={"spec": changed})


def _cures(model: MultiTaskModel, stage: StageCost, fitted: Fitted, device: Device) -> Iterator[_Cure]:
    """What to change, what costs least first. Fewer ``batchRows`` do not help: micro-batches are made to fit anyway."""
    spec, trains_all = model.spec, stage.name == "base" or model.spec.tuning.method == "Full"
    is_state_large = fitted.memory.state >= USED * device.memory
    if not is_state_large:  # what the rows take is in the way
        yield from _cures_of_rows(spec, fitted)
    if stage.name == "base":
        yield _Cure("leave out pretraining, which trains all weights", ("pretraining",), (None,))
    elif trains_all:
        yield _Cure("set tuning.method to LoRA", ("tuning", "method"), ("LoRA",))
    if is_state_large and trains_all and spec.training.optimizer is None and not spec.tuning.has_experts:
        yield _Cure("set training.optimizer to AdamW8bit", ("training", "optimizer"), ("AdamW8bit",))
    if is_state_large and not trains_all and spec.tuning.quantization is None:
        yield _Cure("set tuning.quantization to NF4", ("tuning", "quantization"), ("NF4",))
    yield _Cure("take a smaller base model")
    can_divide = device.is_gpu and can_divide_weights(spec, trains_all=trains_all)
    if can_divide and stage.gpus > fitted.gpus:
        text = "set training.sharding to Always, by which the GPUs divide the weights"
        yield _Cure(text, ("training", "sharding"), ("Always",))
    elif can_divide and (fitted.gpus > 1 or is_state_large):
        text = "train on more GPUs of a cluster (training.gpusPerNode), which divide the weights"
        counts = tuple(count for count in (2, 4, _MOST_GPUS) if count > spec.training.gpus_per_node)
        yield _Cure(text, ("training", "gpus_per_node"), counts)
    yield _Cure("take a GPU with more memory" if device.is_gpu else "train on a GPU, or a machine with more memory")


def _cures_of_rows(spec: MultiTaskModelSpec, fitted: Fitted) -> Iterator[_Cure]:
    """What makes a sequence take less."""
    if not fitted.checkpointing:
        text = "set training.gradientCheckpointing to Always"
        yield _Cure(text, ("training", "gradient_checkpointing"), ("Always",))
    lengths = [spec.training.max_length]
    while lengths[-1] > _SHORT:
        lengths.append(max(_SHORT, lengths[-1] // 2))
    if lengths[1:]:
        yield _Cure("lower training.maxLength", ("training", "max_length"), tuple(lengths[1:]))
