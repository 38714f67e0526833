"""What is trained of a base model, one method a file; the only importers of PEFT."""

from multitask_trainer.tuning.method import TuningMethod, tuning_method

__all__ = ["TuningMethod", "tuning_method"]
