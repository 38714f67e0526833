"""What a run leaves behind, and what happens to it after the file changes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from support.small_suite import FEW_ROWS, ROWS, CommandResult, ModelFolder, mtm

TASKS = ("topic", "urgency", "mood", "reply")
COMPARED = 3 * ROWS["test"] + FEW_ROWS["test"]


def started(done: CommandResult) -> set[str]:
    return set(re.findall(r"^start  (\S+)", done.stderr, re.M))


def states(model_folder: ModelFolder) -> dict[str, str]:
    """Stage → its state, by `mtm plan`."""
    done = model_folder.mtm("plan", "--output", "json")
    assert done.exit_code == 0, done.stderr
    return {stage["name"]: stage["shown"] for stage in json.loads(done.stdout)["stages"]}


def is_cached(state: str) -> bool:
    return state == "cached" or state.startswith("skipped: ")


def test_the_run_ends_with_the_table(finished: ModelFolder, first_run: CommandResult):
    lines = {cells[0]: cells for line in first_run.stdout.splitlines() if (cells := line.split()) and cells[0] in TASKS}
    assert [cells[-3:] for cells in lines.values()] == [
        ["Qualified", "classification", "Qualified"],
        ["Qualified", "classification", "Qualified"],
        ["Inconclusive", "baseline", "BaselineAtFloor"],
        ["Qualified", "generation", "Qualified"],
    ]
    assert "qualified 3/4, confirmed 0" in first_run.stdout
    assert f"served answers: {COMPARED} compared with the measured ones" in first_run.stdout
    assert f"report: {finished.work / 'report.html'}" in first_run.stdout
    assert f"serve:  mtm serve {finished.work}" in first_run.stdout
    assert started(first_run) == set(finished.manifests())


def test_report_json_has_every_key_that_programs_rely_on(finished: ModelFolder):
    report = finished.report()
    assert {
        "schema", "model", "revision", "qualified", "confirmed", "total", "stages", "groups", "tasks", "serving",
        "ledger",
    } <= set(report)  # fmt: skip
    assert (report["schema"], report["model"]) == ("multitask.dev/report/v1", "desk")
    assert (report["qualified"], report["confirmed"], report["total"]) == (3, 0, 4)
    assert re.fullmatch("[0-9a-f]{8,}", report["revision"])
    for stage in report["stages"]:
        assert {"name", "digest", "cached", "seconds"} <= set(stage)
        assert not stage["cached"]
        assert stage["skipped"] or (stage["digest"] and stage["seconds"] > 0)
    assert len(finished.stages_run()) == 18  # the baseline of a group with one task is its mixture


def test_report_json_says_how_each_group_was_trained(finished: ModelFolder):
    groups = {group["name"]: group for group in finished.report()["groups"]}
    assert groups["classification"]["tasks"] == ["topic", "urgency", "mood"]
    assert groups["generation"]["probabilities"] == {"reply": 1.0}
    probabilities = groups["classification"]["probabilities"]
    roots = {"topic": 320**0.5, "urgency": 320**0.5, "mood": 60**0.5}
    assert probabilities == pytest.approx({name: root / sum(roots.values()) for name, root in roots.items()})
    high = groups["classification"]["highResource"]
    assert high
    assert set(high) <= {"topic", "urgency"}
    assert groups["generation"]["highResource"] == []


def test_report_json_judges_every_task(finished: ModelFolder):
    tasks = {task["name"]: task for task in finished.report()["tasks"]}
    assert tuple(tasks) == TASKS
    for name, task in tasks.items():
        assert {
            "name", "group", "type", "metric", "rows", "baseline", "score", "ratio", "interval", "verdict", "confirmed",
            "saturationSteps", "servedBy",
        } <= set(task)  # fmt: skip
        assert task["rows"] == (FEW_ROWS if name == "mood" else ROWS)
        assert task["ratio"] == pytest.approx(task["score"] / task["baseline"])
        assert task["interval"][0] <= task["ratio"] <= task["interval"][1]
        assert 0 < task["saturationSteps"] <= 140
        assert task["confirmed"] is False
    assert [tasks[name]["servedBy"] for name in TASKS] == ["classification", "classification", "baseline", "generation"]
    assert (tasks["reply"]["type"], tasks["reply"]["metric"]) == ("Generation", "ExactMatch")
    assert "not surely better than always giving the best constant answer" in tasks["mood"]["reason"]


def test_every_routed_test_row_was_served_as_it_was_measured(finished: ModelFolder):
    serving = finished.report()["serving"]
    assert serving["different"] == 0
    assert serving["compared"] == serving["equal"] + serving["nearTies"] == COMPARED


def test_the_ledger_counts_the_leftover_model(finished: ModelFolder):
    ledger = finished.report()["ledger"]
    single, multi = ledger["singleTask"], ledger["multiTask"]
    assert (single["models"], multi["models"], ledger["leftoverModels"]) == (4, 3, 1)
    for side in (single, multi):
        assert side["bytes"] > 0
        assert side["requestsPerSecond"] > 0
        assert side["trainingSeconds"] > 0
    assert ledger["reduction"]["bytes"] == pytest.approx(1 - multi["bytes"] / single["bytes"], abs=1e-3)
    assert ledger["reduction"]["bytes"] == pytest.approx(0.25, abs=0.05)  # one model of four fewer
    assert ledger["reduction"]["replicas"] == pytest.approx(1 - multi["replicas"] / single["replicas"], abs=1e-3)


def test_the_page_needs_nothing_from_outside(finished: ModelFolder):
    page = (finished.work / "report.html").read_text()
    names = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}  # names of XML, not fetched by anything
    assert set(re.findall(r"https?://[^\s\"'<>)]+", page)) <= names
    assert not re.search(r"<(script|link|iframe|object|embed)\b[^>]*(src|href|data)=", page)
    assert all(address.startswith(("#", "data:")) for address in re.findall(r"\b(?:src|href)=[\"']([^\"']*)", page))
    assert not re.search(r"@import|url\((?![\"']?(#|data:))", page)
    for name in TASKS:
        assert name in page


def test_report_makes_the_page_again(finished: ModelFolder, tmp_path: Path):
    model_folder = finished.copy(tmp_path / "desk")
    page = model_folder.work / "report.html"
    page.unlink()
    done = mtm("report", str(model_folder.work), "--output", "json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout) == model_folder.report() == finished.report()
    assert page.read_text().startswith("<!doctype html>")


@pytest.fixture(scope="module")
def unchanged(finished: ModelFolder, tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    """A copy whose results no test touches."""
    return finished.copy(tmp_path_factory.mktemp("unchanged") / "desk")


def test_a_second_run_runs_nothing(unchanged: ModelFolder):
    done = unchanged.mtm("run", "--output", "json")
    assert done.exit_code == 0, done.stderr
    assert started(done) == set()
    output = json.loads(done.stdout)
    assert (output["exitStatus"], output["failed"]) == (0, [])
    assert output["report"] == unchanged.report()
    assert all(stage["cached"] for stage in output["report"]["stages"] if stage["skipped"] is None)


def test_plan_finds_everything_and_nothing_is_garbage(unchanged: ModelFolder):
    assert all(map(is_cached, states(unchanged).values()))
    shown = unchanged.mtm("plan")
    assert "20 of 20 stages done" in shown.stdout
    assert json.loads(mtm("gc", str(unchanged.work), "--dry-run", "--output", "json").stdout) == {
        "removed": False, "artifacts": [], "folders": 0, "bytes": 0,
    }  # fmt: skip


def test_what_only_a_cluster_reads_runs_nothing_again(finished: ModelFolder, tmp_path: Path):
    model_folder = finished.copy(tmp_path / "desk")
    model_folder.edit(
        {
            "serving": {"replicas": 3, "rollout": {"steps": [50, 100]}},
            "training": {"resources": {"limits": {"memory": "4Gi"}}, "queueName": "team-a", "maxParallelJobs": 2},
        }
    )
    assert all(map(is_cached, states(model_folder).values()))
    shown = model_folder.mtm("plan").stdout
    assert "ignored, only a cluster uses them" in shown
    assert "spec.serving" in shown
    assert "spec.training.queueName" in shown


@pytest.fixture(scope="module")
def grown(finished: ModelFolder, tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelFolder, CommandResult]:
    """A copy to which a task was added, and the output of its run."""
    model_folder = finished.copy(tmp_path_factory.mktemp("grown") / "desk")
    model_folder.add_task("temper")
    return model_folder, model_folder.mtm("run", "--no-serve")


def test_a_new_task_runs_its_own_stages_and_what_depends_on_them(grown: tuple[ModelFolder, CommandResult]):
    model_folder, done = grown
    assert done.exit_code == 0, done.stderr
    expected = {
        "prepare/temper", "baseline/temper/seed-17", "filter", "mixture/classification", "bundle",
        "evaluate/classification", "export",
    }  # fmt: skip
    assert started(done) == expected
    assert model_folder.stages_run() == expected
    assert "the base model is kept as it is and was not trained on the text of temper" in done.stdout
    tasks = {task["name"]: task for task in model_folder.report()["tasks"]}
    assert tasks["temper"]["servedBy"] == "baseline"


def test_gc_frees_what_the_old_plan_used_and_nothing_else(grown: tuple[ModelFolder, CommandResult]):
    model_folder, _ = grown
    before = set(model_folder.work.glob("stages/**/manifest.json"))
    foreseen = json.loads(mtm("gc", str(model_folder.work), "--dry-run", "--output", "json").stdout)
    assert set(model_folder.work.glob("stages/**/manifest.json")) == before
    done = json.loads(mtm("gc", str(model_folder.work), "--output", "json").stdout)
    assert done == {**foreseen, "removed": True}
    # The old export stays: it is the last one that was verified.
    assert {name.rpartition("/")[0] for name in done["artifacts"]} == {
        "filter",
        "mixture/classification",
        "bundle",
        "evaluate/classification",
        "verify",
        "ledger",
    }  # fmt: skip
    assert done["bytes"] > 100_000
    left = {
        str(path.parent.relative_to(model_folder.work / "stages"))
        for path in model_folder.work.glob("stages/**/manifest.json")
    }
    assert len(left) == len(before) - len(done["artifacts"])
    plan = states(model_folder)
    assert {name for name, state in plan.items() if not is_cached(state)} == {"verify", "ledger"}
