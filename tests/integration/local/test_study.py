"""`mtm study` as a process: what arms share, interruptions, an arm that fails. Only the stage programs are fakes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys

import pytest
import yaml

from integration.local.test_run import FAKE, TESTS, LocalRun, has_ended, started
from support.graph_builders import task


class LocalStudy(LocalRun):
    """A study of two temperatures beside the resource file, with one seed."""

    def __init__(self, folder):
        super().__init__(folder)
        self.set_tasks(task("urgency"), task("intent"))
        grid = {"stages.mixture.temperature": {"values": [1, 2]}}
        self.write_study(parameters=grid, totalSteps=900)

    def write_study(self, **fields):
        document = {"kind": "Study", "metadata": {"name": "temperature"}, "model": "model.yaml", "seeds": 1, **fields}
        (self.folder / "study.yaml").write_text(yaml.safe_dump(document))

    def start(self, *options):
        environment = {**os.environ, "PYTHONPATH": str(TESTS)}
        argv = [sys.executable, str(FAKE), str(self.folder / "study.yaml"), "--workdir", str(self.work), *options]
        return subprocess.Popen(argv, env=environment, stdout=-1, stderr=-1, text=True, start_new_session=True)

    def report(self):
        return json.loads((self.work / "studies/temperature/study.json").read_text())

    def mtm(self, *arguments):
        argv = [sys.executable, "-m", "multitask_operator", *arguments]
        return subprocess.run(argv, cwd=self.folder, capture_output=True, text=True, check=False)


@pytest.fixture
def local_study(tmp_path):
    return LocalStudy(tmp_path)


def kinds(names):
    found = {}
    for name in names:
        kind = name.partition("/")[0]
        found[kind] = found.get(kind, 0) + 1
    return found


def test_arms_share_what_is_equal_and_a_second_call_runs_nothing(local_study):
    plan = json.loads(local_study.mtm("study", "study.yaml", "--plan", "--workdir", "work", "--output", "json").stdout)
    assert not local_study.work.exists(), "a plan leaves nothing behind"
    assert plan["cost"]["tokensFrom"].startswith("estimated from the text of rows and prompts")
    foretold = {item["kind"]: (item["uses"], item["results"]) for item in plan["stages"]}
    assert foretold == {
        "prepare": (4, 2), "base": (2, 1), "baseline": (4, 2), "filter": (2, 2), "high-resource": (2, 2),
        "mixture": (2, 2), "bundle": (2, 2), "evaluate": (2, 2),
    }  # fmt: skip

    status, out, err = local_study.run()
    assert status == 0, err
    # The outputs of the fake filter do not depend on the temperature, so that what follows is one for both arms.
    ran = {"prepare": 2, "base": 1, "baseline": 2, "filter": 2, "high-resource": 1, "mixture": 1}
    assert kinds(started(err)) == {**ran, "bundle": 1, "evaluate": 1}
    report = local_study.report()
    assert (report["cost"]["uses"], report["cost"]["results"], report["cost"]["ran"]) == (20, 11, 11)
    assert "20 stages: 11 ran in this call, 0 were cached, and 9 times a run took" in out
    assert "warning: 1 seed an arm: nothing is supported by fewer than 3" in out
    assert report["conclusion"] in out
    page = local_study.work / "studies/temperature/study.md"
    assert page.read_text().startswith("# Study temperature of desk\n\n**Nothing is compared: all arms come to")
    assert page.with_suffix(".html").read_text().startswith("<!doctype html>")
    assert len(list(local_study.work.glob("logs/mixture__classification-*.log"))) == 1
    assert not (local_study.work / "stages/export").exists()
    assert local_study.current() is None

    status, out, err = local_study.run()
    assert (status, started(err)) == (0, [])
    assert "0 ran in this call, 11 were cached" in out


def test_what_a_run_of_the_model_has_made_is_used(local_study):
    argv = [sys.executable, str(FAKE), str(local_study.file), "--workdir", str(local_study.work), "--no-serve"]
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    exported = local_study.current()
    status, _, err = local_study.run()
    assert status == 0, err
    assert not {"prepare", "base", "baseline"} & set(kinds(started(err)))
    assert local_study.current() == exported, "what is served stays"
    assert local_study.mtm("gc", "work", "--dry-run").stdout == "nothing to remove\n"
    forgotten = local_study.mtm("gc", "work", "--forget", "temperature")
    assert "removed stages/mixture/classification/" in forgotten.stdout
    assert "baseline" not in forgotten.stdout
    assert local_study.mtm("gc", "work", "--forget", "temperature").returncode == 2


def test_interrupted_or_killed_it_goes_on_where_it_was(local_study):
    local_study.faults({"mixture/classification": "hang"})
    process = local_study.start()
    local_study.mark("mixture/classification", process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stop   mixture/classification (all arms): stopped without a checkpoint; the next run begins it again" in err
    again = f"run again: mtm study {local_study.folder / 'study.yaml'} --workdir {local_study.work}\n"
    assert err.endswith(f"interrupted, {again}")
    assert [run["state"] for arm in local_study.report()["arms"] for run in arm["runs"]] == ["Unfinished"] * 2

    (local_study.work / "marks/mixture__classification").unlink()
    process = local_study.start()
    pid = int(local_study.mark("mixture/classification", process))
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert has_ended(pid)

    local_study.faults({})
    status, _, err = local_study.run()
    assert status == 0, err
    assert set(kinds(started(err))) == {"mixture", "bundle", "evaluate"}


def test_an_arm_that_fails_does_not_lose_the_others(local_study):
    grid = {"filtering.strategy": {"values": ["Type", "None"]}}
    local_study.write_study(parameters=grid, totalSteps=900)
    local_study.faults({"mixture/all": "wrong input"})
    status, out, err = local_study.run()
    assert status == 1
    assert err.splitlines()[-1].startswith("not finished; when the cause is mended, run again: mtm study ")
    assert "start  base (all arms)\n" in err
    assert "start  mixture/classification (strategy=Type)\n" in err
    assert "FAILED mixture/all (strategy=None): line 3 has no label" in err
    assert " mixture/all (strategy=None) " in next(local_study.work.glob("logs/mixture__all-*.log")).read_text()
    first, second = local_study.report()["arms"]
    assert "failure" not in first["runs"][0]
    failure = second["runs"][0]["failure"]
    assert re.search(r"stage mixture/all failed: line 3 has no label; .*\(log: .*mixture__all-\w+\.log\)", failure)
    assert f"warning: strategy=None: {failure}" in out
