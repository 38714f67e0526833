"""The phases of a GPU run that train for speed, rehearsed on a CPU with tiny settings."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]
pytestmark = pytest.mark.integration


def phase(box: Path, script: str, *arguments: str) -> str:
    """What a script prints, whose results are in the folder ``out`` of ``box``."""
    command = ["sh", f"tools/gpu_box/{script}.sh", str(box / "out"), *arguments]
    environment = {**os.environ, "BOX": str(box), "PYTHON": sys.executable}
    return subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True).stdout


def test_speed_leaves_its_tables(tmp_path: Path) -> None:
    printed = phase(tmp_path, "speed", "300", "cpu", "--methods", "LoRA")
    for program in ("training_speed", "adapter_step", "packed_attention"):
        assert f"{program}: status 0" in printed, printed
    assert "| tiny | LoRA | HF Trainer |" in (tmp_path / "out/page.md").read_text("utf-8")


def test_baselines_leaves_its_table(tmp_path: Path) -> None:
    printed = phase(tmp_path, "baselines", "300", "cpu", "--seeds", "1", "--steps", "2", "--arms", "together")
    assert "baselines: status 0" in printed, printed
    assert "4 baselines of 2 steps" in (tmp_path / "out/baselines.md").read_text("utf-8")
