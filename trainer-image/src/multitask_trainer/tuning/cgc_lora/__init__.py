"""CGC-LoRA (arXiv 2402.01684) as a method of PEFT, laid out as PEFT lays out its own.

For task k an adapted layer with frozen W computes, with m_c experts common to all tasks and m_s of each task alone,

    h = W x + (α / r) [ Σ_i ω_i^k B_i A_i x  over the common experts  +  Σ_j ω_{m_c + j}^k B_j^k A_j^k x ]
    ω^k = softmax(W_g e_k)  over m_c + m_s experts, one joint softmax

e_k is a learned embedding of the task, one for all layers; W_g is the layer's own. The gate does not look at the input,
so a task's delta is an ordinary LoRA of rank (m_c + m_s) · r_e (`experts.collapse`). The paper's body was not at hand:
this is our reading of it, the customised gate control of PLE (Tang et al., RecSys 2020) over the experts of MOELoRA
(arXiv 2310.18339).
"""

from multitask_trainer.tuning.cgc_lora.config import CgcLoraConfig
from multitask_trainer.tuning.cgc_lora.folder import load_by_task, read_adapter, write_lora
from multitask_trainer.tuning.cgc_lora.layer import CgcLoraLinear
from multitask_trainer.tuning.cgc_lora.model import CgcLoraModel, register

__all__ = ["CgcLoraConfig", "CgcLoraLinear", "CgcLoraModel", "load_by_task", "read_adapter", "register", "write_lora"]
