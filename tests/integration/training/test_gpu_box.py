"""The phases of a GPU run that train for speed, rehearsed on a CPU with tiny settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.gpu_box import run_phase

pytestmark = pytest.mark.integration


def test_speed_leaves_its_tables(tmp_path: Path) -> None:
    printed = run_phase(tmp_path, "speed", "300", "cpu", "--methods", "LoRA")
    for program in ("training_speed", "adapter_step", "packed_attention"):
        assert f"{program}: status 0" in printed, printed
    assert "| tiny | LoRA | HF Trainer |" in (tmp_path / "out/page.md").read_text("utf-8")


def test_baselines_leaves_its_table(tmp_path: Path) -> None:
    printed = run_phase(tmp_path, "baselines", "300", "cpu", "--seeds", "1", "--steps", "2", "--arms", "together")
    assert "baselines: status 0" in printed, printed
    assert "4 baselines of 2 steps" in (tmp_path / "out/baselines.md").read_text("utf-8")
