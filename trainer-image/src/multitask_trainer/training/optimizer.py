"""The settings of a training run, its optimizer, and the optimizer's steps."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from multitask_api.bundle import ForwardPath
from multitask_api.estimates.memory import EIGHT_BIT_WEIGHTS
from multitask_api.resource.training import GradientCheckpointing
from multitask_api.stage_io.parameters import Optimisation
from multitask_serving.engine.model.backbone import Backbone
from multitask_trainer.base_model.quantization import number_of_weights
from multitask_trainer.errors import MicroBatchTooLarge, StageError
from multitask_trainer.training.batching.batches import MicroBatch
from multitask_trainer.training.loss import RowMeanLoss, freeze_outside_decoder
from multitask_trainer.training.loss_meter import LossMeter
from multitask_trainer.training.parallelism.data_parallel import DataParallel, Parallelism
from multitask_trainer.training.parallelism.tensors import gather_weights
from multitask_trainer.tuning.method import TuningMethod

if TYPE_CHECKING:
    from accelerate import Accelerator

_MAX_GRAD_NORM = 1.0


@dataclass(frozen=True)
class TrainingSettings:
    """How a run trains."""

    max_steps: int
    optimisation: Optimisation
    gradient_checkpointing: GradientCheckpointing = "Auto"
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    """Of matrices; norms and biases have none."""


def make_adamw(
    parameters: Mapping[str, nn.Parameter],
    settings: TrainingSettings,
    decays: Callable[[str], bool],
    embeddings: Collection[Tensor] = (),
) -> torch.optim.Optimizer:
    """AdamW over ``parameters``, by name; the loop sets the learning rate of every step.

    Of matrices, those decay of which ``decays`` says so. ``embeddings`` keep 32-bit moments with ``AdamW8bit`` too.
    """
    decayed = {name for name, value in parameters.items() if value.ndim >= 2 and decays(name)}
    groups = [
        {
            "params": [value for name, value in parameters.items() if name in decayed],
            "weight_decay": settings.weight_decay,
        },
        {"params": [value for name, value in parameters.items() if name not in decayed], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    options: dict[str, Any] = {"lr": settings.optimisation.learning_rate, "betas": settings.betas}
    if settings.optimisation.optimizer == "AdamW8bit":
        return _adamw_8bit(groups, embeddings, options)
    return torch.optim.AdamW(groups, fused=True, **options)


def _adamw_8bit(
    groups: Sequence[Mapping[str, Any]], embeddings: Collection[Tensor], options: Mapping[str, Any]
) -> torch.optim.Optimizer:
    """AdamW with moments in 8 bits, by blocks (Dettmers et al., arXiv 2110.02861).

    Gradients of embeddings differ much from token to token; theirs stay in 32 bits, as that paper advises (section 4).
    """
    from bitsandbytes.optim import AdamW8bit, GlobalOptimManager

    optimizer: Any = AdamW8bit(groups, **options)
    # What it excepts is kept by a manager, which is one for the process, by the address of a parameter.
    optimizer.mng = object.__new__(GlobalOptimManager)
    optimizer.mng.initialize()
    excepted = {id(value) for value in embeddings}
    optimizer.mng.index2config = {
        (number, index): {"optim_bits": 32}
        for number, group in enumerate(optimizer.param_groups)
        for index, value in enumerate(group["params"])
        if id(value) in excepted
    }
    made: torch.optim.Optimizer = optimizer
    return made


class OptimizerStep:
    """Gradients of a global batch, and AdamW's step with them, over the weights of ``model`` that require gradients."""

    def __init__(
        self,
        model: nn.Module,
        settings: TrainingSettings,
        *,
        method: TuningMethod,
        accelerator: Accelerator,
        path: ForwardPath | None = None,
        parallelism: Parallelism | None = None,
        loss: Any = None,
        parameters: Mapping[str, nn.Parameter] | None = None,
    ) -> None:
        """``loss``: one that the accelerator has prepared already; ``parameters``: part of the weights, by name."""
        freeze_outside_decoder(model)
        self._parallelism = parallelism or DataParallel(accelerator, loss)
        self.loss: Any = self._parallelism.prepare(RowMeanLoss(model, path))
        trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
        self.parameters = trained if parameters is None else dict(parameters)
        self._embeddings = [module.weight for module in model.modules() if isinstance(module, nn.Embedding)]
        self._has_8bit_moments = settings.optimisation.optimizer == "AdamW8bit"
        self.optimizer = make_adamw(self.parameters, settings, method.decays, self._embeddings)
        self._model = model
        self._method = method
        self._accelerator = accelerator
        self._checkpointing = settings.gradient_checkpointing
        self.is_checkpointing = False
        if self._checkpointing == "Always" and not self.use_checkpointing():
            raise StageError(
                f"training.gradientCheckpointing is Always, and {type(model).__name__} has no gradient checkpointing; "
                "set it to Auto or Never"
            )

    def run(self, micro_batches: Sequence[MicroBatch], present: Tensor, *, rate: float, meter: LossMeter) -> None:
        """One step at learning rate ``rate``.

        ``micro_batches`` are this process's share of the global batch, ``present`` says of which tasks that has rows;
        ``meter`` gets the losses. Raises `MicroBatchTooLarge`; weights, optimizer and meter are then as before.
        """
        micro_batches = self._parallelism.micro_batches(micro_batches)
        for loss, micro_batch in zip(self.gradients(micro_batches), micro_batches, strict=True):
            meter.add_micro_batch(loss, micro_batch.tokens)
        self.apply(present, rate=rate)

    def gradients(self, micro_batches: Sequence[MicroBatch]) -> list[Tensor]:
        """Add the gradients of a step; the loss of each micro-batch.

        Raises `MicroBatchTooLarge`, with no gradients, also for a micro-batch of another process.
        """
        losses, problem = [], "it did not in another process"
        try:
            for micro_batch in micro_batches:
                losses.append(self.backward(micro_batch))  # noqa: PERF401 - those before an error count
        except torch.OutOfMemoryError as error:
            problem = str(error)
        if self._parallelism.all_fit(own=len(losses) == len(micro_batches)):
            return losses
        self.optimizer.zero_grad(set_to_none=True)
        raise MicroBatchTooLarge(
            f"a micro-batch does not fit into the GPU's memory, which another process may have taken: {problem}"
        )

    def apply(self, present: Tensor, *, rate: float) -> None:
        """The optimizer's step with the gradients that are there, clipped, at learning rate ``rate``."""
        self._parallelism.reduce_gradients(self.parameters.values())
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        torch.nn.utils.clip_grad_norm_(self.parameters.values(), _MAX_GRAD_NORM)
        self._method.task_step(self._model, self.optimizer, present)
        self.optimizer.zero_grad(set_to_none=True)

    def backward(self, micro_batch: MicroBatch) -> Tensor:
        """Add this process's gradients of one micro-batch; its loss, as the loss module gives it, on the device."""
        batch = micro_batch.to(self._accelerator.device)
        with self._method.select_tasks(self._model, batch.task_ids):
            loss: Tensor = self.loss(batch)
            # Gradients are averaged over the processes; the weights already hold the whole mean.
            self._accelerator.backward(loss.sum() * self._accelerator.num_processes)
        return loss.detach()

    @property
    def never_checkpoints(self) -> bool:
        """Whether the settings forbid gradient checkpointing."""
        return self._checkpointing == "Never"

    @property
    def weights(self) -> tuple[int, int]:
        """The number of weights that are trained, and of all."""
        trained = sum(value.numel() for value in self.parameters.values())
        return trained, sum(number_of_weights(value) for value in self._model.parameters())

    @property
    def state_bytes(self) -> int:
        """Bytes of a weight's gradient and moments, in a large matrix."""
        return 6 if self._has_8bit_moments else 12

    def moment_dtype(self, value: nn.Parameter) -> torch.dtype:
        """Of the optimizer's two moments of a parameter."""
        is_large = value.numel() >= EIGHT_BIT_WEIGHTS
        if self._has_8bit_moments and is_large and not any(value is each for each in self._embeddings):
            return torch.uint8
        return torch.float32

    def use_checkpointing(self) -> bool:
        """Keep the inputs of layers only, and compute each layer again in the backward pass.

        False if the model cannot, or the settings do not let it.
        """
        if self.is_checkpointing or self._checkpointing == "Never":
            return self.is_checkpointing
        model: Any = self._model
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        if not getattr(base, "supports_gradient_checkpointing", False):
            return False
        # The name has changed within transformers 5.
        enable = getattr(base, "activation_checkpointing_enable", None) or base.gradient_checkpointing_enable
        enable({"use_reentrant": False})
        self.is_checkpointing = True
        return True

    @property
    def tries_together(self) -> bool:
        """Whether all processes make a pass together, also one for trial."""
        return self._parallelism.has_collective_passes

    @property
    def is_sharded(self) -> bool:
        """Whether the weights that are trained are divided over the processes."""
        return self._parallelism.is_sharded

    def gather_weights(self, *, keep: bool) -> None:
        """Make sharded weights whole where ``keep`` is true; all processes call it, after the last step."""
        if self.is_sharded:
            gather_weights(self._model, keep=keep)

    def evaluation(self) -> AbstractContextManager[None]:
        """A context that all processes enter, in which each makes as many forward passes as it needs, or none."""
        return self._parallelism.evaluation(self._idle_pass)

    def _idle_pass(self) -> None:
        """A forward pass of one token, of which nothing is read."""
        token = torch.zeros(1, 1, dtype=torch.int64, device=self._accelerator.device)
        with torch.no_grad(), self._accelerator.autocast(), self._method.select_tasks(self._model, token[0]):
            Backbone.of(self._model).run(input_ids=token, position_ids=token, use_cache=False)
