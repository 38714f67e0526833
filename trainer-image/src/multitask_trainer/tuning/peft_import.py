"""PEFT without bitsandbytes, which it imports wherever that is installed.

That costs each process some seconds and a warning on standard error; only a base in 4 bits has a use for it.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

from multitask_trainer.runtime.packages import QUANTIZATION


def import_without_bitsandbytes() -> None:
    """Import PEFT as where bitsandbytes is not installed, until `use_bitsandbytes`."""
    if QUANTIZATION in sys.modules:
        return
    modules: dict[str, Any] = sys.modules
    modules[QUANTIZATION] = None
    try:
        importlib.import_module("peft")
        for is_available in _answers():
            is_available()  # PEFT keeps the answer
    finally:
        del modules[QUANTIZATION]


def use_bitsandbytes() -> None:
    """PEFT asks again whether bitsandbytes is installed."""
    for is_available in _answers():
        is_available.cache_clear()


def _answers() -> tuple[Any, Any]:
    from peft import import_utils

    return import_utils.is_bnb_available, import_utils.is_bnb_4bit_available
