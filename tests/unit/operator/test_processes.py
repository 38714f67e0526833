"""The environment of stage programs."""

from __future__ import annotations

from pathlib import Path

from multitask_operator.local import processes


def test_a_stage_sees_the_gpu_that_it_is_given_alone(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert processes.environment(Path("work"), 1, "5")["CUDA_VISIBLE_DEVICES"] == "5"
    assert processes.environment(Path("work"), 1)["CUDA_VISIBLE_DEVICES"] == "2,5"
