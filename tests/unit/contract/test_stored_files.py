"""Files of a run that another version reads or goes on with, as version 0.1.0 writes them."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import torch

from multitask_api.stage_io.packing import unpack_manifest
from multitask_operator.local.workdir import Workdir
from multitask_trainer.data.inspection import RowProblem
from multitask_trainer.training.checkpoint import CheckpointStore, Progress
from support.contract_fixtures import read_fixture

PACKED = (
    "H4sIAAAAAAACA41U226jMBD9lch9pYkNAez+xK66j6s+GHtMrIJBtklbRfn3HUjokipp80jmXGZODhyItjWESJ6IVryguspEZjRJ"
    "CLi99Z1rweHwcEzIq3UaYcY2ETwCuiH2Qww4JDtb7x49hG7wCjaqkSFYY5WMtnNISTUtRKq1ziRF4iW6Bgd+Rm63LCuMzPK8yhDZ"
    "2vc4+CuKRaGqXIk0Vapa4C60JFOCqzwVIHOC+3uQ+tf/nSsZoLEONtZFvHETAPQjKx+CRKlZgxuhmcmBlnT0uc7h93E89M3HdRtj"
    "dCUFK2Bbwi0Kv48yeAxB3fDJqcpB84ymnN8m8W9JPS4l/RzBg+/ewlgeZiollaK8XIKmA2ZMWRklhaKZEWaBOZvPKG7KihqqGaXm"
    "9LeFoRkrSGrfDT1C/h4IvPegIujniTO2cyzV87lTCCGn9cjL5eS37ypZ2cZGC1MLzrAntqbHzx79iTD64AYJcbJFPfKlgfg7LN37"
    "W7p0XdKUsUJwkZV5IQqRkPPB4zAVJcdkGS3SbUYzWpx6Gk4FDqu4g1XE13MV5EdA1yjD65jAp0ayOPRNemddPc5fjskdIf0QzreB"
    "LF61H8OYWjBnfNd5J8bXm/AqEtQOWon0FlthR8Jaw37TSmcNKm32DHUCqM7pMFniU5Q1LL9ce/Bh6jY7/gPVv58oAAUAAA=="
)
#: A checkpoint's progress; the same keys are read.
PROGRESS = {
    "step": 40,
    "tail_begin": 30,
    "ended_by_limit": False,
    "best_step": 20,
    "best_value": 0.5,
    "best_loss": 1.5,
    "stale": 1,
    "curve": [],
    "loss_sum": 2.0,
    "loss_steps": 4,
    "first_loss": 3.0,
    "tokens": 1000,
    "seconds": 7.0,
}


def test_a_manifest_in_a_configmap():
    (manifest,) = (each for each in read_fixture("full-graph")["manifests"] if each["stage"] == "filter")
    assert unpack_manifest(PACKED).to_json() == manifest


def test_a_checkpoint_is_read_and_written_with_the_same_keys(tmp_path: Path):
    store = CheckpointStore(tmp_path)
    weights, optimizer = {"weight": torch.ones(2)}, {"state": {}}
    stored = {"progress": json.dumps(PROGRESS), "weights": weights, "optimizer": optimizer}
    torch.save(stored, tmp_path / "checkpoint.pt")
    torch.save(weights, tmp_path / "best-20.pt")

    loaded = store.load()
    assert loaded is not None
    progress, _, _ = loaded
    assert isinstance(progress, Progress)
    assert store.load_best(20).keys() == weights.keys()

    store.save(progress, weights, optimizer)
    written = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert list(written) == ["progress", "weights", "optimizer"]
    assert json.loads(written["progress"]) == PROGRESS


def test_paths_of_a_work_folder(tmp_path: Path):
    workdir = Workdir(tmp_path)
    key = ("baseline/urgency/seed-17", "a15e32215abe")
    name = "baseline__urgency__seed-17-a15e32215abe"
    assert workdir.artifact(key) == tmp_path / "stages/baseline/urgency/seed-17/a15e32215abe"
    assert workdir.work(key) == tmp_path / "work" / name
    assert workdir.log(key[0]) == tmp_path / "logs/baseline/urgency/seed-17.log"
    assert workdir.order(key) == tmp_path / f"orders/{name}.json"
    assert workdir.progress(key) == tmp_path / f"progress/{name}.json"
    assert workdir.current == tmp_path / "current"


def test_keys_of_a_bad_row():
    assert [each.name for each in fields(RowProblem)] == ["split", "file", "line", "field", "reason", "fatal"]
