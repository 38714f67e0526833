"""The configuration of CGC-LoRA, as PEFT keeps those of its methods."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from peft import PeftConfig

from multitask_trainer.tuning.cgc_lora.experts import ExpertLayout

PEFT_TYPE = "CGC_LORA"


@dataclass
class CgcLoraConfig(PeftConfig):
    """What `CgcLoraModel` adapts, and how. Raises `ValueError` for settings that give no experts, or no whole rank.

    Args:
        tasks: Their names, in the order of the task ids.
        r: The rank of all experts together; the output of the adapters is multiplied by ``lora_alpha / r``.
        lora_alpha: α.
        use_rslora: Whether they are multiplied by ``lora_alpha / √r`` instead, as in PEFT's ``LoraConfig``.
        lora_dropout: Dropout probability of the input of the adapters.
        common_experts: m_c, the experts that all tasks use.
        specific_experts: m_s, the experts of each task alone.
        expert_rank: r_e. Default: r / (m_c + T · m_s).
        gate: ``Task``: the softmax of the task's learned logits. ``Uniform``: 1 / (m_c + m_s) for each expert.
        task_embedding_dim: d, the size of the task embedding.
        target_modules: Names, or the ends of names, of linear layers or `Conv1D`.
        fan_in_fan_out: Whether all of them are `Conv1D`, whose weight is (in, out). Of use for a conversion to LoRA.
        exclude_modules: Those of them that are left as they are.
    """

    tasks: list[str] = field(default_factory=list)
    r: int = 16
    lora_alpha: float = 32
    use_rslora: bool = False
    lora_dropout: float = 0.0
    common_experts: int = 1
    specific_experts: int = 1
    expert_rank: int | None = None
    gate: Literal["Task", "Uniform"] = "Task"
    task_embedding_dim: int = 8
    target_modules: list[str] | str | set[str] | None = None
    fan_in_fan_out: bool = False
    exclude_modules: list[str] | str | None = None

    def __post_init__(self) -> None:
        """Check the settings and work out the rank of an expert."""
        super().__post_init__()  # type: ignore[no-untyped-call]
        untyped: Any = self
        untyped.peft_type = PEFT_TYPE  # not one of PEFT's own enumeration, whose members are strings too
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise ValueError(f"tasks must be one name or more, all different; they are {self.tasks}")
        if min(self.common_experts, self.specific_experts) < 0 or self.common_experts + self.specific_experts < 1:
            raise ValueError("common_experts and specific_experts must not be negative, and one of them at least 1")
        if self.gate not in ("Task", "Uniform"):
            raise ValueError(f"gate is {self.gate!r}; it must be 'Task' or 'Uniform'")
        if self.r < 1 or (self.expert_rank is not None and self.expert_rank < 1):
            raise ValueError("r and expert_rank must be at least 1")
        experts = self.common_experts + len(self.tasks) * self.specific_experts
        if self.expert_rank is None:
            if self.r % experts:
                raise ValueError(
                    f"r is {self.r}, which {experts} experts cannot share; set it to a multiple of {experts}, or set "
                    "expert_rank"
                )
            self.expert_rank = self.r // experts

    @property
    def layout(self) -> ExpertLayout:
        """The experts of each adapted layer."""
        assert self.expert_rank is not None  # __post_init__ sets it
        return ExpertLayout(len(self.tasks), self.common_experts, self.specific_experts, self.expert_rank)

    @property
    def scaling(self) -> float:
        """α / r, or α / √r, with the rank of all experts together."""
        return self.lora_alpha / (math.sqrt(self.r) if self.use_rslora else self.r)
