"""``MultiTaskModel.spec``: everything a user declares."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Self

from pydantic import Field, model_validator
from pydantic.alias_generators import to_camel

from multitask_api.bundle import GenerationSettings
from multitask_api.errors import Problem, raise_problems
from multitask_api.resource.filtering import Filtering
from multitask_api.resource.grouping import any_group_problems, group_tasks, groups_are_known, rank_problems
from multitask_api.resource.serving import Serving
from multitask_api.resource.sources import (
    BaseModelSource,
    Credential,
    DnsLabel,
    Name,
    Pretraining,
    SecretName,
    Storage,
)
from multitask_api.resource.tasks import TaskSpec
from multitask_api.resource.training import Qualification, Stages, Training
from multitask_api.resource.tuning import Tuning
from multitask_api.types import Record
from multitask_api.uris import is_builtin

HIGHEST_FULL_RATE, LOWEST_ADAPTER_RATE = 1e-4, 3e-5
"""Learning rates beyond which a hint is given. LoRA's best rate is about ten times that of training all weights
(https://thinkingmachines.ai/blog/lora/)."""
_LORA_FIELDS = ("rank", "alpha", "use_rslora", "dropout", "target_modules")


class MultiTaskModelSpec(Record):
    """The tasks, how to train them together, and when a task is good enough for the shared model."""

    base_model: BaseModelSource = Field(description="The pretrained language model that all training starts from.")
    storage: Storage | None = Field(
        None,
        description="Where results and checkpoints are kept. Required in a cluster; on one machine the work folder of "
        "`mtm run` is used instead.",
    )
    credentials: Annotated[tuple[Credential, ...], Field(max_length=16)] = Field(
        (),
        description="Secrets whose keys become environment variables of the stage pods, for access to object stores "
        "and the Hugging Face Hub. Default: none.",
    )
    service_account_name: Name | None = Field(
        None, description="ServiceAccount of the stage pods. Default: the operator creates one for this model."
    )
    image_pull_secrets: Annotated[tuple[SecretName, ...], Field(max_length=16)] = Field(
        (), description="Secrets for pulling the trainer image in the stage pods. Default: none."
    )
    pretraining: Pretraining | None = Field(
        None,
        description="Continued pretraining of the base model on text of the domain. Default: the base model is used as "
        "it is.",
    )
    tasks: Annotated[tuple[TaskSpec, ...], Field(min_length=1, max_length=128)] = Field(
        description="The text tasks, each with its data, prompt and metric."
    )
    filtering: Filtering = Field(Filtering(), description="How tasks are divided into groups.")
    stages: Stages = Field(Stages(), description="The budgets of the training stages.")
    tuning: Tuning = Field(Tuning(), description="Which weights are trained: all of them, or low-rank adapters.")
    qualification: Qualification = Field(
        Qualification(), description="When a task counts as good enough to be served by the shared model of its group."
    )
    training: Training = Field(
        Training(), description="Optimizer settings of every training stage, and the pods it runs in."
    )
    serving: Serving = Field(Serving(), description="The servers of the result in a cluster.")
    suspend: bool = Field(
        False,
        description="Stop the Jobs of this model and start no others. Set back to false, they resume from their "
        "checkpoints.",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        raise_problems(self._problems())
        return self

    def _problems(self) -> Iterator[Problem]:
        first: dict[str, int] = {}
        for index, task in enumerate(self.tasks):
            if task.name in first:
                other = f"spec.tasks[{first[task.name]}]"
                yield Problem(f"tasks[{index}].name", f"{task.name!r} is already the name of {other}; rename one")
            first.setdefault(task.name, index)
            if self.filtering.strategy == "Manual" and task.group is None:
                yield Problem(
                    f"tasks[{index}].group", "filtering.strategy: Manual needs a group for every task; add one"
                )
            if task.type == "Generation":
                yield from self._length_problems(f"tasks[{index}]", task.generation or GenerationSettings())
        types = {task.type for task in self.tasks}
        if self.filtering.max_groups is not None and self.filtering.max_groups < len(types):
            yield Problem(
                "filtering.maxGroups",
                f"{self.filtering.max_groups} is fewer than the {len(types)} types of tasks, which are never trained"
                " together; raise it",
            )
        yield from self._optimizer_problems()
        if self.qualification.rule == "LowerBound" and self.stages.baseline.seeds < 2:
            yield Problem(
                "qualification.rule",
                "LowerBound needs stages.baseline.seeds of 2 or more, because one seed does not show how much the"
                " single-task score varies",
            )

    def _optimizer_problems(self) -> Iterator[Problem]:
        """What 8-bit optimizer states and a 4-bit base cannot be combined with."""
        training, tuning = self.training, self.tuning
        if training.optimizer is not None and tuning.has_experts:
            yield Problem(
                "training.optimizer",
                f"{training.optimizer}: CGCLoRA keeps the moments of each task's experts in 32 bits; remove it, or set"
                " tuning.method: LoRA",
            )
        if training.sharding != "Always":
            return
        if training.optimizer is not None and (tuning.method == "Full" or self.pretraining is not None):
            yield Problem(
                "training.sharding", f"Always does not divide the moments of {training.optimizer}; remove one of them"
            )
        if tuning.quantization is not None:
            yield Problem(
                "training.sharding",
                f"Always does not divide a base in {tuning.quantization}; remove it or tuning.quantization",
            )

    def _length_problems(self, path: str, settings: GenerationSettings) -> Iterator[Problem]:
        """One token of the prompt, the answer and the end-of-sequence token have to fit."""
        tokens, limit = settings.max_new_tokens, self.training.max_length
        if tokens + 2 > limit:
            is_set = "max_new_tokens" in settings.model_fields_set
            yield Problem(
                f"{path}.generation.maxNewTokens",
                f"{tokens}{'' if is_set else ' (the default)'} leaves no room for a prompt in training.maxLength"
                f" ({limit}); {'lower it' if is_set else 'set it lower'} or raise training.maxLength",
            )

    def group_problems(self) -> tuple[Problem, ...]:
        """What does not fit the groups; none while those are not known. It presumes that every task is valid."""
        if self.filtering.strategy == "Affinity":
            candidates = group_tasks(self.tasks, self.filtering.strategy)
            return tuple(any_group_problems(self.tuning, max(map(len, candidates.values()))))
        if not groups_are_known(self.tasks, self.filtering.strategy):
            return ()
        problems = tuple(rank_problems(self.tuning, group_tasks(self.tasks, self.filtering.strategy)))
        if self.stages.mixture.start is None:
            return problems
        keep = "; to go on from an earlier mixture, set tuning.expertRank to the rank of its experts, see `mtm report`"
        return tuple(Problem(problem.path, problem.message + keep) for problem in problems)

    def task(self, name: str) -> TaskSpec:
        """The task called ``name``; KeyError if there is none."""
        for task in self.tasks:
            if task.name == name:
                return task
        raise KeyError(name)

    @property
    def weights(self) -> dict[str, float] | None:
        """Task → its weight in the mixture, of those that have another than 1; None without any."""
        return {task.name: task.weight for task in self.tasks if task.weight not in (None, 1)} or None

    def hints(self) -> tuple[str, ...]:
        """Settings that are valid but probably not intended: one sentence each, with the path and what to do."""
        hints = []
        if is_builtin(self.base_model.uri) and self.tuning.method != "Full" and self.pretraining is None:
            hints.append(
                f"spec.tuning.method: {self.tuning.method} trains adapters over frozen weights, and those of"
                f" {self.base_model.uri} are random; set method: Full, or add spec.pretraining"
            )
        # Not by what is set: the API server fills in the defaults.
        unused = [name for name in _LORA_FIELDS if getattr(self.tuning, name) != getattr(Tuning(), name)]
        if self.tuning.method == "Full" and unused:
            names = ", ".join(to_camel(name) for name in unused)
            hints.append(f"spec.tuning: {names} {'has' if len(unused) == 1 else 'have'} no effect with method: Full")
        return (*hints, *self._learning_rate_hints())

    def _learning_rate_hints(self) -> Iterator[str]:
        """Where the learning rate is one for adapters and all weights are trained, or the other way round.

        A built-in base is random, and learns with high rates whatever is trained.
        """
        rate, pretraining = self.training.learning_rate, self.pretraining
        if is_builtin(self.base_model.uri):
            return
        stages = {
            "stages.baseline": self.stages.baseline.learning_rate,
            "stages.highResource": self.stages.high_resource.learning_rate,
            "stages.mixture": self.stages.mixture.learning_rate,
        }
        own = {place: value for place, value in stages.items() if value is not None}
        used = own if len(own) == len(stages) else {"training": rate} | own
        for place, value in used.items():
            if self.tuning.method == "Full" and value > HIGHEST_FULL_RATE:
                yield (
                    f"spec.{place}.learningRate: {value:g} is a rate for adapters; with method: Full all weights of the"
                    " base are trained, which wants 1e-5 to 5e-5; lower it"
                )
            if self.tuning.method != "Full" and value < LOWEST_ADAPTER_RATE:
                yield (
                    f"spec.{place}.learningRate: {value:g} is a rate for training all weights; adapters want 1e-4 to"
                    " 5e-4; raise it"
                )
        if pretraining is not None and (pretraining.learning_rate or rate) > HIGHEST_FULL_RATE:
            yield (
                f"spec.pretraining.learningRate: {pretraining.learning_rate or rate:g} is a rate for adapters;"
                " pretraining trains all weights of the base, which wants 1e-5 to 5e-5; set a lower one"
            )


class Metadata(Record):
    """The object's name; further Kubernetes metadata is kept as it is."""

    model_config = Record.model_config | {"extra": "allow"}

    name: DnsLabel
    namespace: DnsLabel | None = None
