"""Which weights are trained: full tuning, LoRA, or CGC-LoRA with the rank of its experts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from multitask_api.errors import Problem, raise_problems
from multitask_api.resource.sources import Name
from multitask_api.types import Record

MAX_RANK = 1024
_CGC_FIELDS = {
    "common_experts": "commonExperts",
    "specific_experts": "specificExperts",
    "expert_rank": "expertRank",
    "gate": "gate",
}


Quantization = Literal["NF4"]
"""Of a frozen base: 4-bit NormalFloat, with quantised scales (Dettmers et al., QLoRA, arXiv 2305.14314)."""


class Tuning(Record):
    """Which weights are trained: all of them, low-rank adapters, or low-rank experts behind a gate.

    ``useRslora``, ``quantization`` and the fields of CGC-LoRA are None where they are not given, so that records and
    digests of the other methods are as they were; `with_defaults` fills the last in.
    """

    method: Literal["Full", "LoRA", "CGCLoRA"] = Field(
        "LoRA",
        description="Full: all weights. LoRA: low-rank adapters on a frozen base model, one for all tasks of a group. "
        "CGCLoRA: low-rank experts on a frozen base model, some common to the tasks of a group and some of one task "
        "alone, weighted by a gate for each task (arXiv 2402.01684). Baselines, and groups of one task, are then plain "
        "LoRA of the same rank.",
    )
    rank: int = Field(
        16,
        ge=1,
        le=MAX_RANK,
        description="Rank r of the adapters. With CGCLoRA it is the sum of the ranks of all experts of a group. Not "
        "used with Full.",
    )
    alpha: float = Field(
        32, gt=0, description="α: the output of an adapter is multiplied by α / r. Not used with Full."
    )
    use_rslora: bool | None = Field(
        None,
        description="Multiply the output of an adapter by α / √r instead, so that a higher rank does not learn more "
        "slowly (arXiv 2312.03732). With alpha 32 and rank 16 that is 8 in place of 2: lower alpha with it. Not used "
        "with Full. Default: false.",
    )
    dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Dropout probability on the input of the adapters during training. Not used with Full.",
    )
    target_modules: Annotated[tuple[Name, ...], Field(max_length=64)] = Field(
        (),
        description="Layers that get adapters, by the last part of their name, for example q_proj. Default: all "
        "projections of the text decoder: linear layers, GPT-2's Conv1D, and stacked expert weights (these only with "
        "LoRA and dropout 0); never the head, a router, or a vision tower.",
    )
    quantization: Quantization | None = Field(
        None,
        description="Number format of the frozen base while adapters are trained. NF4: its linear layers in 4 bits "
        "(QLoRA, arXiv 2305.14314), a quarter of bf16. The adapters are tested and served on the base as it is, in "
        "training.precision. Needs the Python package bitsandbytes where the model trains; not with Full, and GPUs do "
        "not divide such a base (training.sharding). Default: training.precision.",
    )
    common_experts: int | None = Field(
        None, ge=0, le=64, description="Experts that all tasks of a group share. Only with CGCLoRA. Default: 1."
    )
    specific_experts: int | None = Field(
        None, ge=0, le=64, description="Experts of each task alone. Only with CGCLoRA. Default: 1."
    )
    expert_rank: int | None = Field(
        None,
        ge=1,
        le=MAX_RANK,
        description="Rank of each expert. Only with CGCLoRA. Default: rank / (commonExperts + tasks of the group · "
        "specificExperts), so that a group has as many trained weights as with LoRA; it must be a whole number.",
    )
    gate: Literal["Task", "Uniform"] | None = Field(
        None,
        description="Task: each task learns the weights of its experts, a softmax over the common and its own. "
        "Uniform: all weights are equal. Only with CGCLoRA. Default: Task.",
    )

    @field_validator("use_rslora")
    @classmethod
    def _false_is_the_default(cls, value: bool | None) -> bool | None:
        """So that it has the digest of a file without the field."""
        return value or None

    @model_validator(mode="after")
    def _check(self) -> Self:
        raise_problems(self._problems())
        return self

    def _problems(self) -> Iterator[Problem]:
        if self.method == "Full" and self.quantization is not None:
            yield Problem(
                "quantization",
                f"{self.quantization} is for a frozen base, and Full trains all weights; remove it or set method: LoRA",
            )
        if not self.has_experts:
            for name, alias in _CGC_FIELDS.items():
                if getattr(self, name) is not None:
                    yield Problem(alias, f"{self.method} has no experts; remove it or set method: CGCLoRA")
        elif self.experts_of_a_task == 0:
            yield Problem(
                "specificExperts", "there is no expert at all; set commonExperts or specificExperts to 1 or more"
            )

    @property
    def scaling(self) -> float:
        """What the output of an adapter is multiplied by: α / r, or α / √r with ``useRslora`` (arXiv 2312.03732).

        With CGC-LoRA r is the rank of all experts together.
        """
        return self.alpha / (math.sqrt(self.rank) if self.use_rslora else self.rank)

    @property
    def has_experts(self) -> bool:
        """Whether the method is CGCLoRA."""
        return self.method == "CGCLoRA"

    @property
    def can_share_base(self) -> bool:
        """Whether one process can train the adapters of several runs on one base: plain LoRA without dropout.

        Masks of dropout are drawn for a whole batch, so they would depend on which runs are in it. Layers in 4 bits
        take one adapter.
        """
        return self.method == "LoRA" and self.dropout == 0 and self.quantization is None

    @property
    def experts_of_a_task(self) -> int:
        """m_c + m_s: the experts that one task's gate weighs."""
        common, specific = self._expert_counts
        return common + specific

    def experts(self, number_of_tasks: int) -> int:
        """m_c + T · m_s: all experts of a group of ``number_of_tasks`` tasks."""
        common, specific = self._expert_counts
        return common + number_of_tasks * specific

    @property
    def _expert_counts(self) -> tuple[int, int]:
        """(m_c, m_s), with defaults."""
        common, specific = self.common_experts, self.specific_experts
        return 1 if common is None else common, 1 if specific is None else specific

    def with_defaults(self) -> Tuning:
        """CGCLoRA with its defaults written out, ``expertRank`` excepted; other methods as they are."""
        if not self.has_experts:
            return self
        common, specific = self._expert_counts
        return self.model_copy(
            update={"common_experts": common, "specific_experts": specific, "gate": self.gate or "Task"}
        )

    def expert_rank_in(self, number_of_tasks: int) -> int:
        """r_e in a group: ``expertRank``, or r / (m_c + T · m_s). Raises ValueError if that is no whole number."""
        problem = self.rank_problem(number_of_tasks)
        if problem is not None:
            raise ValueError(f"tuning.rank: {problem}")
        return self.expert_rank or self.rank // self.experts(number_of_tasks)

    def rank_problem(self, number_of_tasks: int) -> str | None:
        """Why ``rank`` cannot be divided among the experts of a group, with the next step; None if it can."""
        experts = self.experts(number_of_tasks)
        if not self.has_experts or self.expert_rank is not None or self.rank % experts == 0:
            return None
        common, specific = self._expert_counts
        counted = f"{common} common, {specific} for each of {number_of_tasks} tasks"
        ranks = ranks_near(self.rank, experts)
        choice = f"set it to {' or '.join(map(str, ranks))}, or " if ranks else ""
        return f"{self.rank} cannot be divided among {experts} experts ({counted}); {choice}set tuning.expertRank"

    def for_group(self, tasks: Sequence[str]) -> Tuning:
        """The settings of a group of ``tasks``, with nothing left to default.

        With one task there is nothing to share and nothing to weigh, so its CGC-LoRA is a plain LoRA. Raises ValueError
        as `expert_rank_in`.
        """
        if not self.has_experts:
            return self
        if len(tasks) == 1:
            return self.for_baseline()
        return self.with_defaults().model_copy(update={"expert_rank": self.expert_rank_in(len(tasks))})

    def for_baseline(self) -> Tuning:
        """The settings of one task's own training: for CGCLoRA a plain LoRA of the same rank, α, dropout and layers."""
        if not self.has_experts:
            return self
        return self.model_copy(update={"method": "LoRA", **dict.fromkeys(_CGC_FIELDS)})


def ranks_near(rank: int, experts: int) -> tuple[int, ...]:
    """The multiples of ``experts`` nearest below and above ``rank``, as far as they are ranks."""
    below = rank // experts * experts
    return tuple(value for value in (below, below + experts) if 1 <= value <= MAX_RANK)
