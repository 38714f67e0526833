"""`mtm run` as a process: cached results, interruptions, failures, locks. Only the stage programs are fakes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from support.graph_builders import task

TESTS = Path(__file__).parents[2]
FAKE = Path(__file__).with_name("fake_mtm.py")


class LocalRun:
    """A resource file with data, its work folder, and `mtm run` on them."""

    def __init__(self, folder):
        self.folder, self.file, self.work = folder, folder / "model.yaml", folder / "work"
        self.set_tasks(task("urgency"), task("reply", "Generation"))
        self.faults({})

    def set_tasks(self, *tasks):
        for item in tasks:
            for split, source in item["data"].items():
                path = self.folder / source["uri"]
                path.parent.mkdir(exist_ok=True)
                path.write_text(json.dumps({"text": f"{item['name']} {split}", "label": "a", "target": "x"}) + "\n")
        spec = {"baseModel": {"uri": "builtin://tiny"}, "tasks": list(tasks), "tuning": {"method": "Full"}}
        document = {"apiVersion": "multitask.dev/v1alpha1", "kind": "MultiTaskModel", "metadata": {"name": "desk"}}
        self.file.write_text(yaml.safe_dump({**document, "spec": spec}))

    def faults(self, faults):
        (self.folder / "faults.json").write_text(json.dumps(faults))

    def start(self, *options):
        environment = {**os.environ, "PYTHONPATH": str(TESTS)}
        argv = [sys.executable, str(FAKE), str(self.file), "--workdir", str(self.work), *options]
        return subprocess.Popen(argv, env=environment, stdout=-1, stderr=-1, text=True, start_new_session=True)

    def run(self, *options):
        process = self.start(*options)
        out, err = process.communicate(timeout=120)
        return process.returncode, out, err

    def mark(self, stage, process):
        """What the stage wrote when it began to misbehave."""
        path = self.work / "marks" / stage.replace("/", "__")
        deadline = time.monotonic() + 60
        while not (path.exists() and path.read_text()):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline, f"{stage} was not started"
            time.sleep(0.05)
        return path.read_text()

    def current(self):
        """The digest of the export that is served, if one is."""
        path = self.work / "current"
        return path.resolve().name if path.exists() else None

    def nothing_to_serve(self):
        """The error of `mtm serve`."""
        argv = [sys.executable, "-m", "multitask_operator", "serve", str(self.work)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert done.returncode == 2, done.stderr
        return done.stderr

    def partial(self, err):
        """Two fields of the partial report, which the run has to name."""
        page = self.work / "report.partial.html"
        assert f"partial report: {page}\n" in err
        assert page.read_text().startswith("<!doctype html>")
        report = json.loads((self.work / "report.partial.json").read_text())
        return {name: report.get(name) for name in ("qualified", "revision")}

    def report(self):
        return json.loads((self.work / "report.json").read_text())


def started(err):
    return re.findall(r"^start  (\S+)", err, re.M)


def has_ended(pid):
    """Whether a process ends within ten seconds."""
    try:
        process = psutil.Process(pid)
        process.wait(10)
    except psutil.NoSuchProcess:
        return True
    except psutil.TimeoutExpired:
        return process.status() == psutil.STATUS_ZOMBIE
    return True


def child_of(process, module):
    """The child that runs ``python -m module``, once it does."""
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        for child in psutil.Process(process.pid).children():
            if child.cmdline()[1:3] == ["-m", module]:
                return child
        time.sleep(0.01)
    raise AssertionError(f"{module} was not started: {process.communicate()}")


@pytest.fixture
def local_run(tmp_path):
    return LocalRun(tmp_path)


def test_a_run_ends_with_the_table_and_a_second_one_runs_nothing(local_run):
    status, out, err = local_run.run()
    assert status == 0, err
    assert "qualified 2/2, confirmed 0" in out
    assert f"report: {local_run.work / 'report.html'}" in out
    assert "mtm serve" in out
    assert len(started(err)) == len(set(started(err))) == 12
    assert " skipped\n" in out
    assert "skipped: mixture/generation: reply is alone in its group: its baseline is the group's model" in out
    assert (local_run.work / "current").resolve().parent == local_run.work / "stages" / "export"
    assert (local_run.work / "logs/baseline/urgency/seed-17.log").read_text().startswith("=== ")
    assert (local_run.work / "report.html").read_text().startswith("<!doctype html>")
    assert not any(stage["cached"] for stage in local_run.report()["stages"] if stage["skipped"] is None)

    status, out, err = local_run.run()
    assert (status, started(err)) == (0, [])
    assert "all stages were cached" in out
    assert all(stage["cached"] for stage in local_run.report()["stages"] if stage["skipped"] is None)

    local_run.set_tasks(task("urgency"), task("reply", "Generation"), task("intent"))
    status, _, err = local_run.run()
    assert status == 0
    again = [name for name in started(err) if name.startswith(("prepare", "base"))]
    assert again == ["prepare/intent", "baseline/intent/seed-17"]


def test_killing_the_group_leaves_no_orphans_and_the_next_run_redoes_nothing(local_run):
    local_run.faults({"baseline/urgency/seed-17": "hang, leaving a helper", "baseline/reply/seed-17": "hang"})
    process = local_run.start()
    helper = int(local_run.mark("baseline/urgency/seed-17", process))
    stage = int(local_run.mark("baseline/reply/seed-17", process))
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert has_ended(stage)
    assert psutil.pid_exists(helper)

    local_run.faults({})
    status, _, err = local_run.run()
    assert status == 0, err
    assert has_ended(helper)
    assert "that an earlier run left running" in err
    assert not [name for name in started(err) if name.startswith("prepare/") or name == "base"]
    assert set(started(err)[:2]) == {"baseline/reply/seed-17", "baseline/urgency/seed-17"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_lets_stages_write_a_checkpoint(local_run, number):
    local_run.faults({"base": "checkpoint on SIGTERM"})
    process = local_run.start()
    stage = int(local_run.mark("base", process))
    os.kill(process.pid, number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stop   base: stopped; the next run goes on from its last checkpoint\n" in err
    assert "run the same command again" in err
    assert local_run.partial(err) == {"qualified": 0, "revision": None}
    assert not (local_run.work / "report.json").exists()
    assert has_ended(stage)
    assert [path.read_text() for path in local_run.work.glob("work/base-*/checkpoint")] == ["saved"]


def test_a_second_run_of_the_same_folder_names_the_first(local_run):
    local_run.faults({"base": "hang"})
    process = local_run.start()
    local_run.mark("base", process)
    status, _, err = local_run.run()
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert status == 2
    assert f"in use by another mtm (process {process.pid})" in err


FAILURES = [
    # fault, exit status, message, next step
    ("wrong input", 1, "line 3 has no label; add one", "correct what the message names"),
    ("crash", 1, "ZeroDivisionError: division by zero", "the log has the details"),
    ("exit", 1, "ended with status 9: no space left on device", "the log has the details"),
]


@pytest.mark.parametrize(("fault", "expected", "message", "next_step"), FAILURES)
def test_a_failed_stage_is_named_with_its_log_and_other_stages_continue(local_run, fault, expected, message, next_step):
    local_run.faults({"baseline/reply/seed-17": fault})
    status, _, err = local_run.run()
    assert status == expected
    assert f"error: stage baseline/reply/seed-17 failed: {message}" in err
    log = local_run.work / "logs/baseline/reply/seed-17.log"
    assert str(log) in err
    assert next_step in err
    assert "done   baseline/urgency/seed-17" in err
    assert "filter" not in started(err)
    assert log.read_text().count("=== ") == 1


def test_retryable_failures_are_tried_again_and_every_log_is_kept(local_run):
    local_run.faults({"base": "retryable once", "prepare/reply": "killed once"})
    status, _, err = local_run.run()
    assert status == 0, err
    for stage in ("base", "prepare/reply"):
        assert f"start  {stage} (attempt 2)" in err
        assert f"will be tried again: {stage}" in err
        assert (local_run.work / f"logs/{stage}.log").read_text().count("=== ") == 2

    next(local_run.work.glob("stages/base/*/content.txt")).unlink()
    status, _, err = local_run.run()
    assert (status, started(err)) == (0, ["base"]), "an artifact that lost a file is made again"


def test_an_unfinished_run_keeps_the_report_of_the_last_one_that_finished(local_run):
    assert local_run.run()[0] == 0
    report = local_run.report()
    local_run.set_tasks(task("urgency"), task("reply", "Generation"), task("intent"))
    local_run.faults({"baseline/intent/seed-17": "exit"})
    status, _, err = local_run.run()
    assert status == 1
    assert local_run.partial(err) == {"qualified": 0, "revision": None}
    assert local_run.report() == report
    assert f"the report of the last run that finished is kept: {local_run.work / 'report.html'}\n" in err

    local_run.faults({})
    assert local_run.run()[0] == 0
    assert local_run.report()["total"] == 3
    assert not list(local_run.work.glob("report.partial.*"))


FAILED_VERIFY = "failed verify, see "


def test_an_export_that_failed_verify_is_not_served(local_run):
    local_run.faults({"verify": "wrong input"})
    status, _, err = local_run.run()
    assert (status, local_run.current()) == (1, None)
    assert f"nothing to serve: the new export {FAILED_VERIFY}{local_run.work / 'logs/verify.log'}" in err
    assert "its last export failed verify, see" in local_run.nothing_to_serve()

    status, out, _ = local_run.run("--no-serve")
    assert (status, local_run.current()) == (0, None), "what failed verify is not served unverified"
    assert FAILED_VERIFY in out

    local_run.faults({})
    status, out, err = local_run.run()
    assert (status, started(err)) == (0, ["verify"])
    assert local_run.current()
    assert "warning: " not in out


def test_when_verify_fails_the_last_verified_export_is_served_again(local_run):
    assert local_run.run()[0] == 0
    verified = local_run.current()
    local_run.set_tasks(task("urgency"), task("reply", "Generation"), task("intent"))
    status, out, err = local_run.run("--no-serve")
    assert status == 0, err
    assert local_run.current() not in (None, verified)
    assert "warning: the served export is unverified" in out

    local_run.faults({"verify": "crash"})
    status, _, err = local_run.run()
    assert (status, local_run.current()) == (1, verified)
    log, serve = local_run.work / "logs/verify.log", f"mtm serve {local_run.work}"
    assert f"{FAILED_VERIFY}{log}; `{serve}` still serves the one before" in err


@pytest.mark.parametrize(("command", "program"), [("plan", "stages.resolve"), ("validate", "jobs.data_check")])
def test_a_data_check_ends_with_a_killed_command_and_leaves_no_files(local_run, command, program):
    local_run.work.mkdir()
    argv = [sys.executable, "-m", "multitask_operator", command, str(local_run.file)]
    process = subprocess.Popen(argv + ["--workdir", str(local_run.work)] * (command == "plan"), stdout=-1, stderr=-1)
    checker = child_of(process, f"multitask_trainer.{program}")
    checker.suspend()  # so that it does not end by itself
    process.kill()
    process.communicate()
    try:
        assert has_ended(checker.pid)
    finally:
        if checker.is_running():
            checker.kill()
    assert list(local_run.work.iterdir()) == []
