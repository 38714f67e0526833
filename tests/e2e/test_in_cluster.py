"""The product in a real cluster of one node, on the small suite; ``make e2e`` has the support desk too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parent / "in_cluster" / "run.py"
SECONDS = 3000  # of a machine that has other tests to run; it takes 12 minutes on a quiet one, and images another 4


def test_from_helm_install_to_the_last_object_gone(capfd: pytest.CaptureFixture[str]):
    if os.geteuid() != 0:
        pytest.skip("needs root: it starts containers")
    done = subprocess.run([sys.executable, str(PROGRAM), "--reduced"], check=False, timeout=SECONDS)
    captured = capfd.readouterr()
    with capfd.disabled():
        print(f"\n{captured.out}")
    assert done.returncode == 0, captured.out + captured.err
