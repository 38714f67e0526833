"""What is trained of a base model, one method a file; the only importers of PEFT."""

from multitask_trainer.tuning.choice import tuning_method
from multitask_trainer.tuning.method import TuningMethod

__all__ = ["TuningMethod", "tuning_method"]
