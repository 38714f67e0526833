"""Work folders that an older ``mtm`` left: an interrupted one is run with the present stages, a finished one is used.

Everything goes through ``mtm``. ``finished`` is what the older one made of a copy of ``interrupted``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from multitask_api.stages.versions import VERSIONS
from support.frozen import unpack_workdir

MTM = Path(sys.executable).with_name("mtm")
ENVIRONMENT = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1"}
SECONDS = 1500
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

    def plan(self, *options: str) -> dict[str, Any]:
        shown: dict[str, Any] = json.loads(
            self.mtm("plan", "model.yaml", "--workdir", self.path.name, "--output", "json", *options)
        )
        return shown

    def states(self) -> dict[str, str]:
        """Stage → what a run would do with it."""
        return {stage["name"]: stage["shown"] for stage in self.plan()["stages"]}

    def results(self) -> dict[str, tuple[bytes, int, int]]:
        """Every manifest, with what changes when it is made again."""
        paths = {str(path): path for path in self.path.glob("stages/**/manifest.json")}
        return {name: (path.read_bytes(), path.stat().st_ino, path.stat().st_mtime_ns) for name, path in paths.items()}

    def manifests(self) -> dict[str, Any]:
        """Stage → its result, of which there is one."""
        all_manifests = [json.loads(content) for content, *_ in self.results().values()]
        assert len({manifest["stage"] for manifest in all_manifests}) == len(all_manifests)
        return {manifest["stage"]: manifest for manifest in all_manifests}

    def report(self) -> dict[str, Any]:
        return json.loads((self.path / "report.json").read_text())


@dataclass(frozen=True)
class Adopted:
    """The interrupted run as it was, and what the present ``mtm`` made of it; ``older`` is how the older one ended."""

    workdir: Workdir
    older: Workdir
    plan: dict[str, Any]
    results: dict[str, tuple[bytes, int, int]]


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack_workdir(tmp_path_factory.mktemp("frozen") / "desk")


@pytest.fixture(scope="module")
def adopted(samples: Path) -> Adopted:
    workdir, older = Workdir(samples / "interrupted"), Workdir(samples / "finished")
    plan, results = workdir.plan("--no-serve"), workdir.results()
    workdir.run("--no-serve")
    return Adopted(workdir, older, plan, results)


@pytest.fixture
def finished(samples: Path, tmp_path: Path) -> Workdir:
    """A copy of the finished one, with ``model.yaml`` and the data beside it."""
    for name in ("finished", "data"):
        shutil.copytree(samples / name, tmp_path / name, symlinks=True)
    shutil.copy2(samples / "model.yaml", tmp_path)
    return Workdir(tmp_path / "finished")


def test_an_unfinished_run_of_an_older_release_begins_anew_and_says_so(adopted):
    assert "cached" not in {stage["shown"] for stage in adopted.plan["stages"]}
    (note,) = [note for note in adopted.plan["notes"] if "another release began this run" in note]
    assert "baseline" in note
    assert adopted.results.items() <= adopted.workdir.results().items(), "nothing is lost"


def test_it_ends_with_the_stages_of_the_older_one_in_the_present_versions(adopted):
    """All but the mixtures of groups with one task: their baselines stand in for them now."""
    older, states = adopted.older.manifests(), adopted.workdir.states()
    skipped = {stage for stage, shown in states.items() if shown.startswith("skipped")}
    assert {stage for stage, shown in states.items() if shown == "cached"} == set(older) - SERVERS - skipped
    made = [
        json.loads(content) for name, (content, *_) in adopted.workdir.results().items() if name not in adopted.results
    ]
    assert {manifest["stage"]: manifest["version"] for manifest in made} == {
        manifest["stage"]: VERSIONS[manifest["kind"]] for manifest in made
    }


def of_older_keys(newer: list[dict[str, Any]], older: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The newer objects with the keys that the older ones have."""
    return [{key: one[key] for key in other} for one, other in zip(newer, older, strict=True)]


def test_its_report_is_complete(adopted):
    newer, older = adopted.workdir.report(), adopted.older.report()
    assert set(newer) >= set(older)
    assert newer["qualified"] == older["qualified"] == newer["total"] == 3
    plain = ("name", "group", "type", "metric", "rows", "baseline", "score", "ratio", "verdict", "servedBy", "floor")
    assert [[task[key] for key in plain] for task in newer["tasks"]] == [
        [task[key] for key in plain] for task in older["tasks"]
    ]
    expected = [stage for stage in older["stages"] if stage["name"] not in SERVERS]
    assert [stage["name"] for stage in newer["stages"]] == [stage["name"] for stage in expected]
    assert all(set(stage) >= set(same) for stage, same in zip(newer["stages"], expected, strict=True))
    assert (adopted.workdir.path / "report.html").stat().st_size > 10_000
    assert (adopted.workdir.path / "current").readlink().is_relative_to("stages/export")


def test_gc_then_removes_what_the_older_release_left(adopted):
    states = adopted.workdir.states()
    adopted.workdir.mtm("gc", adopted.workdir.path.name)
    assert adopted.workdir.results().keys().isdisjoint(adopted.results)
    assert {path.name for path in (adopted.workdir.path / "work").iterdir()} <= {"rows"}
    assert adopted.workdir.states() == states


def test_a_finished_work_folder_has_nothing_to_run_and_nothing_to_remove(finished):
    before, report = finished.results(), finished.report()
    links = [(finished.path / name).readlink() for name in ("current", "verified")]
    assert {shown for shown in finished.states().values() if not shown.startswith("skipped")} == {"cached"}
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
