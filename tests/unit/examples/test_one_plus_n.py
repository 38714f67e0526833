"""The example with two groups on one base: its data, and that its file fits them."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from multitask_api.resource import parse
from multitask_api.stages import groups

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "one-plus-n"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The data, written twice by processes with different hash seeds."""
    folders = []
    for seed in ("1", "2"):
        out = tmp_path_factory.mktemp("data")
        command = [sys.executable, str(EXAMPLE / "make_data.py"), "--out", str(out)]
        subprocess.run(command, check=True, capture_output=True, env=os.environ | {"PYTHONHASHSEED": seed})
        folders.append(out)
    return folders


def test_the_same_seed_gives_the_same_bytes_in_another_process(written: list[Path]):
    one, other = ({path.relative_to(out): path.read_bytes() for path in out.rglob("*.gz")} for out in written)
    assert len(one) == 3 * 6
    assert one == other


def test_the_file_has_the_tasks_and_labels_of_the_data(written: list[Path]):
    spec = parse((EXAMPLE / "model.yaml").read_text("utf-8")).spec
    assert {path.name for path in written[0].iterdir()} == {task.name for task in spec.tasks}
    for task in spec.tasks:
        with gzip.open(written[0] / task.name / "train.jsonl.gz", "rt", encoding="utf-8") as lines:
            labels = [json.loads(line)["label"] for line in lines]
        assert set(labels) == set(task.labels)
        assert max(map(labels.count, task.labels)) < 1.4 * len(labels) / len(task.labels)


def test_two_groups_of_three_tasks_share_the_rank_of_a_lora():
    spec = parse((EXAMPLE / "model.yaml").read_text("utf-8")).spec
    assert groups(spec) == {"binary": ("complaint", "rush", "fault"), "multi-class": ("action", "object", "area")}
    assert {spec.tuning.for_group(tasks).expert_rank for tasks in groups(spec).values()} == {4}
