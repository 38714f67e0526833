"""A stage pod whose claim is full: a real file system without room, the real program, and what it says."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from multitask_api.cluster import CONFIGMAP_VARIABLE, EXIT_DONE, EXIT_RETRYABLE, FAILURE_KEY, MOUNTS_VARIABLE
from support.fake_api_server import NAME, ApiServer, running
from support.pod_units import manifest, orders, prepare

#: A mount that only the program sees, and that goes with it; no privilege is needed for it.
APART = ["unshare", "--map-root-user", "--mount", "sh", "-c", 'mount -t tmpfs -o "size=$1" claim "$0" && shift && "$@"']


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with running(ApiServer()) as running_server:
        yield running_server


@pytest.fixture(autouse=True)
def _able(tmp_path: Path) -> None:
    done = subprocess.run([*APART, str(tmp_path), "1m", "true"], capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"needs a mount of its own: {done.stderr.decode().strip()}")


def run(unit_folder: Path, claim: Path, size: str, server: ApiServer) -> subprocess.CompletedProcess[str]:
    """The program of a stage pod, with a claim of that size."""
    claim.mkdir(exist_ok=True)
    program = [sys.executable, "-m", "multitask_trainer.pod", "--orders", str(unit_folder), "--server", server.url]
    variables = {CONFIGMAP_VARIABLE: NAME, MOUNTS_VARIABLE: json.dumps({"models": str(claim)})}
    return subprocess.run(
        [*APART, str(claim), size, *program], env=os.environ | variables, capture_output=True, text=True, check=False
    )


def test_a_full_claim_is_named_with_what_to_do_and_the_stage_is_tried_again(tmp_path, server):
    words = random.Random(1)
    rows = [{"text": words.randbytes(400).hex(), "label": label} for label in ("high", "low") * 250]
    claim = tmp_path / "claim"
    order = prepare(tmp_path, "a", rows, output=str(claim / "stages/prepare/a/d-a"), work=str(claim / "work/a"))
    unit_folder = orders(tmp_path, order)

    done = run(unit_folder, claim, "64k", server)
    assert done.returncode == EXIT_RETRYABLE, done.stderr
    failure = json.loads(server.data[FAILURE_KEY])
    assert (failure["stage"], failure["kind"]) == ("prepare/a", "Retryable")
    assert failure["message"].startswith("claim 'models' is full; make room in it or enlarge it")
    assert "Traceback" not in done.stderr

    assert run(unit_folder, claim, "16m", server).returncode == EXIT_DONE
    assert manifest(server, "a").stage == "prepare/a"
    assert FAILURE_KEY not in server.data
