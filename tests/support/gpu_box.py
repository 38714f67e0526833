"""The scripts of a GPU run (``tools/gpu_box``), run on a CPU with tiny settings."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def run_phase(box: Path, script: str, *arguments: str) -> str:
    """What a script prints. ``box``: what the machine has received; the results are in its folder ``out``."""
    command = ["sh", f"tools/gpu_box/{script}.sh", str(box / "out"), *arguments]
    environment = {**os.environ, "BOX": str(box), "PYTHON": sys.executable}
    return subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True).stdout
