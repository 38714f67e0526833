"""The stage ``mixture`` with a method that is not one of the product's: ``train.py NAME --order FILE``."""

from __future__ import annotations

import sys

from multitask_trainer.runtime.runner import main
from multitask_trainer.stages import mixture
from multitask_trainer.training import run
from support.other_methods.method import OtherMethod
from support.other_methods.mtl_lora import MtlLora
from support.other_methods.poly import Poly

METHODS: dict[str, type[OtherMethod]] = {"mtl-lora": MtlLora, "poly": Poly}

if __name__ == "__main__":
    run.tuning_method = METHODS[sys.argv[1]]  # type: ignore[assignment]
    raise SystemExit(main(mixture.work, sys.argv[2:]))
