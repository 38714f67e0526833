"""Two processes that share every batch train what one process trains."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.integration

PROGRAM = Path(__file__).with_name("two_processes.py")


@pytest.mark.parametrize("method", ["Full", "CGCLoRA"])
def test_two_processes_end_with_the_weights_of_one(tmp_path, method):
    results = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        folder.mkdir()
        launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        environment = os.environ | {"PYTHONPATH": str(PROGRAM.parents[2]), "ACCELERATE_USE_CPU": "true"}
        done = subprocess.run(
            [sys.executable, *launch, str(PROGRAM), str(folder), method],
            env=environment,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        results.append(torch.load(folder / "out.pt", weights_only=True))
    one, two = results
    assert (one["processes"], two["processes"]) == (1, 2)
    assert one["tokens"] == two["tokens"] > 0
    assert one["losses"] == pytest.approx(two["losses"], abs=1e-5)
    # Adam turns a gradient's rounding into a step of its own size where the gradient is nearly nothing.
    far = [(one["weights"][name] - value).abs().gt(1e-4).float().mean() for name, value in two["weights"].items()]
    assert max(far) < 0.01
