"""What is trained of a base model, one method a file; the only importers of PEFT."""

from multitask_trainer.tuning.method import Method, method

__all__ = ["Method", "method"]
