"""How many GPUs a process can use, by its device files and CUDA's own variable."""

from __future__ import annotations

from pathlib import Path

import pytest

from multitask_api.machine.gpus import gpu_count, visible_gpus

DRIVER = ("nvidiactl", "nvidia-uvm", "nvidia-modeset")
CASES = [
    ("no driver", (), {}, 0),
    ("a driver, and no GPU in this container", DRIVER, {}, 0),
    ("one", (*DRIVER, "nvidia0"), {}, 1),
    ("the fourth of a machine", (*DRIVER, "nvidia3"), {}, 1),
    ("ten", (*DRIVER, *(f"nvidia{number}" for number in range(10))), {}, 10),
    ("Windows' Linux", ("dxg",), {}, 1),
    ("two of them visible", ("nvidia0", "nvidia1", "nvidia2"), {"CUDA_VISIBLE_DEVICES": "2,0"}, 2),
    ("one by its name", ("nvidia0", "nvidia1"), {"CUDA_VISIBLE_DEVICES": "GPU-8f3a"}, 1),
    ("hidden", ("nvidia0",), {"CUDA_VISIBLE_DEVICES": ""}, 0),
    ("hidden by a number", ("nvidia0",), {"CUDA_VISIBLE_DEVICES": "-1"}, 0),
    ("all after the first hidden", ("nvidia0", "nvidia1"), {"CUDA_VISIBLE_DEVICES": "0,-1,1"}, 1),
    ("more named than there are", ("nvidia0",), {"CUDA_VISIBLE_DEVICES": "0,1,2"}, 1),
]


@pytest.mark.parametrize(("sentence", "files", "environment", "count"), CASES, ids=[row[0] for row in CASES])
def test_gpus_are_counted(
    tmp_path: Path, sentence: str, files: tuple[str, ...], environment: dict[str, str], count: int
) -> None:
    for name in files:
        (tmp_path / name).touch()
    assert gpu_count(environment, tmp_path) == count
    assert len(visible_gpus(environment, tmp_path)) == count


def test_gpus_keep_the_names_that_they_are_given(tmp_path: Path) -> None:
    for name in ("nvidia0", "nvidia1", "nvidia7"):
        (tmp_path / name).touch()
    assert visible_gpus({}, tmp_path) == ("0", "1", "2")
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "2, GPU-8f3a,-1"}, tmp_path) == ("2", "GPU-8f3a")
