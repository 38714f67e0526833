"""The command with the real programs that read data: data_check, resolve, prepare."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import yaml

from support.graph_builders import task

GOOD = {"text": "the printer is on fire", "label": "a"}


@pytest.fixture
def desk(tmp_path):
    tasks = [task("urgency"), task("intent")]
    for item in tasks:
        for source in item["data"].values():
            path = tmp_path / source["uri"]
            path.parent.mkdir(exist_ok=True)
            rows = [GOOD | {"label": label, "text": f"{label} {path.name}"} for label in "abc"]
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = {"baseModel": {"uri": "builtin://tiny"}, "tasks": tasks}
    document = {"apiVersion": "multitask.dev/v1alpha1", "kind": "MultiTaskModel", "metadata": {"name": "desk"}}
    (tmp_path / "model.yaml").write_text(yaml.safe_dump({**document, "spec": spec}))
    return tmp_path


def mtm(desk, *arguments):
    argv = [sys.executable, "-m", "multitask_operator", *arguments]
    completed = subprocess.run(argv, cwd=desk, env=dict(os.environ), capture_output=True, text=True, check=False)
    assert "Traceback" not in completed.stderr
    return completed


def states(desk):
    plan = json.loads(mtm(desk, "plan", "model.yaml", "--output", "json").stdout)
    return {stage["name"]: stage["shown"] for stage in plan["stages"]}


def test_bad_rows_are_found_before_and_during_a_run_and_what_was_prepared_is_kept(desk):
    assert mtm(desk, "validate", "model.yaml").returncode == 0
    bad = desk / "intent/train.jsonl"
    good = bad.read_text()
    bad.write_text(good + json.dumps({"text": "no label here"}) + "\n")

    validated = mtm(desk, "validate", "model.yaml", "--output", "json")
    assert validated.returncode == 2
    problem = json.loads(validated.stdout)["problems"][0]
    assert problem["path"] == "spec.tasks[1].data.train"
    assert "line 4" in problem["message"]

    assert states(desk)["prepare/urgency"] == "will run"
    assert not (desk / ".mtm").exists(), "plan leaves nothing behind"

    done = mtm(desk, "run", "model.yaml")
    assert done.returncode == 1
    assert "error: stage prepare/intent failed:" in done.stderr
    assert "line 4" in done.stderr
    assert "done   prepare/urgency" in done.stderr

    bad.write_text(good)
    after = states(desk)
    assert (after["prepare/urgency"], after["prepare/intent"]) == ("cached", "will run")
    assert after["base"] == "depends on prepare/intent"


def test_missing_data_is_an_error_before_anything_runs(desk):
    (desk / "urgency/test.jsonl").unlink()
    done = mtm(desk, "run", "model.yaml")
    assert done.returncode == 2
    assert "urgency/test.jsonl" in done.stderr
    assert "start" not in done.stderr


def test_predict_has_the_options_and_errors_of_the_client(desk):
    done = mtm(desk, "predict", "--address", "127.0.0.1:1", "urgency", "text")
    assert done.returncode == 2
    assert "'text' is not field=value" in done.stderr
    assert "--stream" in mtm(desk, "predict", "--help").stdout
