"""Several processes that share every batch, and the weights too where they are sharded, train what one process trains.

They continue what another number of processes has left.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.integration

PROGRAM = Path(__file__).with_name("several_processes.py")
METHODS = ("Full", "LoRA", "CGCLoRA")
SHARDED: dict[str, Any] = {"sharded": True}
LAUNCHES = [
    (
        1,
        [
            *({"name": f"{method}-1", "method": method} for method in METHODS),
            {"name": "Full-1to2", "method": "Full", "stop_after": 4},
        ],
    ),
    (
        4,
        [
            {"name": "Full-4-sharded", "method": "Full"} | SHARDED,
            {"name": "Full-4to2", "method": "Full", "stop_after": 2} | SHARDED,
            {"name": "Full-4to1", "method": "Full", "stop_after": 4, "mirror": True} | SHARDED,
            {"name": "LoRA-4to2", "method": "LoRA", "stop_after": 4} | SHARDED,
        ],
    ),
    (
        2,
        [
            *({"name": f"{method}-2", "method": method} for method in ("Full", "CGCLoRA")),
            *({"name": f"{method}-2-sharded", "method": method} | SHARDED for method in METHODS),
            *({"name": f"{method}-4to2", "method": method} | SHARDED for method in ("Full", "LoRA")),
            {"name": "Full-1to2", "method": "Full"} | SHARDED,
            *({"name": f"{method}-2-halved", "method": method, "fitting": (40, 30)} for method in ("Full", "CGCLoRA")),
            {"name": "Full-2-fitted", "method": "Full", "memory": (200, 40)} | SHARDED,
            {"name": "Full-2-full", "method": "Full", "memory": (200, 200), "full": 1} | SHARDED,
        ],
    ),
    (1, [{"name": "Full-4to1", "method": "Full", "mirror": True}]),
]
ENDED_BY = {"Full-4-sharded": 4, "Full-4to1": 1}
"""The number of processes, where it is not two."""
NAMES = sorted({case["name"] for _, cases in LAUNCHES for case in cases if "full" not in case})
VALIDATED = {"Full-4to2": [4, 5, 6], "Full-4to1": [5, 6], "LoRA-4to2": [5, 6], "Full-1to2": [5, 6]}
"""The steps after which the last launch validated, where it went on from a checkpoint."""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Name of the training → what its rank 0 left."""
    folder = tmp_path_factory.mktemp("several")
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(folder), json.dumps(LAUNCHES)],
        env=os.environ | {"PYTHONPATH": str(PROGRAM.parents[2]), "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    errors = {path.stem: path.read_text() for path in folder.glob("Full-2-full/error-*.txt")}
    return {path.parent.name: torch.load(path, weights_only=True) for path in folder.glob("*/out.pt")} | errors


@pytest.mark.parametrize("name", [name for name in NAMES if not name.endswith("-1")])
def test_they_end_with_losses_and_weights_of_one_process(results, name):
    one, several = results[f"{name.partition('-')[0]}-1"], results[name]
    assert (one["processes"], several["processes"]) == (1, ENDED_BY.get(name, 2))
    assert several["validated"] == VALIDATED.get(name, [2, 4, 5, 6])
    assert one["tokens"] == several["tokens"] > 0
    assert len(one["losses"]) == 4
    for first, second in zip(one["losses"], several["losses"], strict=True):
        assert first == pytest.approx(second, abs=1e-5)
    assert one["weights"].keys() == several["weights"].keys()
    # Adam turns a gradient's rounding into a step of its own size where the gradient is nearly nothing.
    far = [(one["weights"][key] - value).abs().gt(1e-4).float().mean() for key, value in several["weights"].items()]
    assert max(far) < 0.01


@pytest.mark.parametrize(("name", "processes"), [("Full-4-sharded", 4), ("Full-2-sharded", 2), ("LoRA-2-sharded", 2)])
def test_each_holds_its_part_of_the_weights(results, name, processes):
    method = name.partition("-")[0]
    whole = results[f"{method}-1"]["held"]
    trained = sum(value.numel() for value in results[name]["weights"].values())
    divided = whole if method == "Full" else whole - trained
    assert divided / processes <= results[name]["held"] - (whole - divided) <= 1.1 * divided / processes


def test_the_process_with_the_least_memory_says_how_many_tokens_all_take_at_once(results):
    # The longest row has 21 tokens. One takes half a MiB, as activations are computed twice; 36.8 of 40 MiB are used.
    assert results["Full-2-fitted"]["budget"] == 3 * 21


def test_where_the_state_of_one_process_has_no_room_all_end_with_the_same_error(results):
    assert results["error-0"].startswith("a GPU of 1 GiB is too small for this base model")
    assert results["error-0"] == results["error-1"]


@pytest.mark.parametrize("name", ["Full-2-halved", "CGCLoRA-2-halved"])
def test_where_one_process_is_out_of_memory_all_go_on_with_half_as_many_tokens(results, name):
    assert results[name]["budget"] == 21  # the longest row; half of 40 is less
    assert results["Full-2"]["budget"] == 40
