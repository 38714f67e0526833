"""Work folders that an older ``mtm`` left: an interrupted one is resumed and finished, a finished one is used.

Everything goes through ``mtm``. ``finished`` is what the older one made of a copy of ``interrupted``.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support.frozen import unpack_workdir

MTM = Path(sys.executable).with_name("mtm")
ENVIRONMENT = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1"}
SECONDS = 1500
KILLED = "baseline/urgency/seed-17"
#: Stages that read nothing which the resumed run trains: their digests are the older ones on every processor.
EXACT = re.compile(r"(prepare|baseline)/.*|base")
#: Of these `mtm run --no-serve` runs none.
SERVERS = {"verify", "ledger"}
#: Task, text, answer.
QUESTIONS = [
    ("topic", "please invoice someday thanks", "billing"),
    ("urgency", "hello parcel now bye", "high"),
    ("reply", "hi password now cheers", "reset it"),
]


@dataclass(frozen=True)
class Workdir:
    """One of the unpacked work folders, beside ``model.yaml``."""

    path: Path

    def mtm(self, command: str, *arguments: str) -> str:
        """``mtm``, beside ``model.yaml``, to its good end; what it printed."""
        done = subprocess.run(
            [MTM, command, *arguments],
            cwd=self.path.parent,
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def run(self, *options: str) -> None:
        self.mtm("run", "model.yaml", "--workdir", self.path.name, *options)

    def plan(self, *options: str) -> dict[str, str]:
        """Stage → what a run would do with it."""
        shown = self.mtm("plan", "model.yaml", "--workdir", self.path.name, "--output", "json", *options)
        return {stage["name"]: stage["shown"] for stage in json.loads(shown)["stages"]}

    def results(self) -> dict[str, tuple[bytes, int, int]]:
        """Every manifest, with what changes when it is made again."""
        paths = {str(path): path for path in self.path.glob("stages/**/manifest.json")}
        return {name: (path.read_bytes(), path.stat().st_ino, path.stat().st_mtime_ns) for name, path in paths.items()}

    def manifests(self) -> dict[str, Any]:
        """Stage → its result, of which there is one."""
        all_manifests = [json.loads(content) for content, *_ in self.results().values()]
        assert len({manifest["stage"] for manifest in all_manifests}) == len(all_manifests)
        return {manifest["stage"]: manifest for manifest in all_manifests}

    def log(self, stage: str) -> str:
        return (self.path / "logs" / f"{stage}.log").read_text()

    def report(self) -> dict[str, Any]:
        return json.loads((self.path / "report.json").read_text())


@dataclass(frozen=True)
class Resumed:
    """The interrupted run as it was, and what the present ``mtm`` made of it; ``older`` is how the older one ended."""

    workdir: Workdir
    older: Workdir
    planned: dict[str, str]
    results: dict[str, tuple[bytes, int, int]]
    log: str


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack_workdir(tmp_path_factory.mktemp("frozen") / "desk")


@pytest.fixture(scope="module")
def resumed(samples: Path) -> Resumed:
    workdir, older = Workdir(samples / "interrupted"), Workdir(samples / "finished")
    planned, results, log = workdir.plan("--no-serve"), workdir.results(), workdir.log(KILLED)
    workdir.run("--no-serve")
    return Resumed(workdir, older, planned, results, log)


@pytest.fixture
def finished(samples: Path, tmp_path: Path) -> Workdir:
    """A copy of the finished one, with ``model.yaml`` and the data beside it."""
    for name in ("finished", "data"):
        shutil.copytree(samples / name, tmp_path / name, symlinks=True)
    shutil.copy2(samples / "model.yaml", tmp_path)
    return Workdir(tmp_path / "finished")


def test_what_the_interrupted_run_had_done_is_planned_as_cached_and_not_done_again(resumed):
    done = {json.loads(content)["stage"] for content, *_ in resumed.results.values()}
    assert {stage for stage, shown in resumed.planned.items() if shown == "cached"} == done
    assert resumed.planned[KILLED] == "will run"
    assert resumed.results.items() <= resumed.workdir.results().items()
    assert {stage["name"] for stage in resumed.workdir.report()["stages"] if stage["cached"]} == done


def test_the_killed_training_goes_on_from_its_checkpoint(resumed):
    step = steps(resumed.log)[-1]
    assert min(steps(resumed.workdir.log(KILLED).removeprefix(resumed.log))) > step, "it does not begin anew"
    newer, older = (each.manifests()[KILLED]["result"]["curve"] for each in (resumed.workdir, resumed.older))
    assert [point["step"] for point in newer] == [point["step"] for point in older]
    before = [point for point in older if point["step"] <= step]
    assert newer[: len(before)] == before != [], "what the checkpoint says of the steps before it"
    for one, other in zip(newer, older, strict=True):
        assert one["trainLoss"] == pytest.approx(other["trainLoss"], rel=0.05)


def steps(log: str) -> list[int]:
    """The steps after which a training was validated."""
    return [int(step) for step in re.findall(r"^step (\d+)/", log, re.MULTILINE)]


def test_the_resumed_run_ends_with_the_stages_of_the_older_one(resumed):
    """All but the mixtures of groups with one task: their baselines stand in for them now."""
    newer, older = resumed.workdir.manifests(), resumed.older.manifests()
    skipped = {stage for stage, shown in resumed.workdir.plan("--no-serve").items() if shown.startswith("skipped")}
    assert set(newer) == set(older) - SERVERS - skipped
    exact = {stage for stage in newer if EXACT.fullmatch(stage)}
    assert len(exact) == 7
    for stage in exact:
        manifest, same = newer[stage], older[stage]
        assert (manifest["version"], manifest["digest"]) == (same["version"], same["digest"]), stage
        assert set(manifest["outputs"]) >= set(same["outputs"]), stage
        assert set(manifest["readOutputs"]) == set(same["readOutputs"]), stage
    assert list((resumed.workdir.path / "work").iterdir()) == []


def of_older_keys(newer: list[dict[str, Any]], older: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The newer objects with the keys that the older ones have."""
    return [{key: one[key] for key in other} for one, other in zip(newer, older, strict=True)]


def test_the_report_of_the_resumed_run_is_complete(resumed):
    newer, older = resumed.workdir.report(), resumed.older.report()
    assert set(newer) >= set(older)
    assert newer["qualified"] == older["qualified"] == newer["total"] == 3
    plain = ("name", "group", "type", "metric", "rows", "baseline", "score", "ratio", "verdict", "servedBy", "floor")
    assert [[task[key] for key in plain] for task in newer["tasks"]] == [
        [task[key] for key in plain] for task in older["tasks"]
    ]
    expected = [stage for stage in older["stages"] if stage["name"] not in SERVERS]
    assert [stage["name"] for stage in newer["stages"]] == [stage["name"] for stage in expected]
    assert all(set(stage) >= set(same) for stage, same in zip(newer["stages"], expected, strict=True))
    assert (resumed.workdir.path / "report.html").stat().st_size > 10_000
    assert (resumed.workdir.path / "current").readlink().is_relative_to("stages/export")


def test_a_finished_work_folder_has_nothing_to_run_and_nothing_to_remove(finished):
    before, report = finished.results(), finished.report()
    links = [(finished.path / name).readlink() for name in ("current", "verified")]
    assert {shown for shown in finished.plan().values() if not shown.startswith("skipped")} == {"cached"}
    finished.run()
    now = finished.report()
    assert [stage["name"] for stage in now["stages"] if not stage["cached"] and not stage["skipped"]] == []
    removed = json.loads(finished.mtm("gc", "finished", "--output", "json"))
    assert (removed["artifacts"], removed["folders"]) == ([], 0)
    assert finished.results() == before
    assert [(finished.path / name).readlink() for name in ("current", "verified")] == links
    assert of_older_keys(now["tasks"], report["tasks"]) == report["tasks"]
    for key in ("serving", "ledger", "revision"):
        assert now[key] == report[key]


def test_a_report_is_shown_again(finished):
    report = finished.report()
    (finished.path / "report.html").unlink()
    shown = json.loads(finished.mtm("report", "finished", "--output", "json"))
    assert of_older_keys(shown["tasks"], report["tasks"]) == report["tasks"]
    page = (finished.path / "report.html").read_text()
    assert all(task["name"] in page for task in report["tasks"])


def test_what_was_exported_is_served(finished):
    with served(finished) as address:
        for task, text, answer in QUESTIONS:
            output = finished.mtm("predict", "--address", address, task, f"text={text}", "--output", "json")
            prediction = json.loads(output)
            assert (prediction["label"] or prediction["text"]) == answer


@contextmanager
def served(workdir: Workdir):
    """The address of an ``mtm serve``."""
    argv = [MTM, "serve", workdir.path.name, "--address", "127.0.0.1:0", "--threads", "1"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    process = subprocess.Popen(argv, cwd=workdir.path.parent, env=ENVIRONMENT, text=True, **pipes)
    try:
        lines = []
        for line in process.stdout or ():
            lines.append(line)
            if line.startswith("serving 3 tasks on "):
                break
        assert "".join(lines[-1:]).startswith("serving"), "".join(lines)
        yield lines[-1].split()[-1]
    finally:
        process.terminate()
        process.communicate(timeout=60)
