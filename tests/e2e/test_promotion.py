"""``promote: AllQualified``: as long as one task fails, nothing new is served."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.small_suite import CommandResult, ModelFolder, mtm


@pytest.fixture(scope="module")
def strict(finished: ModelFolder, tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelFolder, CommandResult]:
    """A copy that now wants every task to qualify, and the output of its run."""
    model_folder = finished.copy(tmp_path_factory.mktemp("strict") / "desk")
    model_folder.edit({"qualification": {"promote": "AllQualified"}})
    return model_folder, model_folder.mtm("run")


def test_nothing_new_is_exported(strict: tuple[ModelFolder, CommandResult]):
    model_folder, done = strict
    assert done.exit_code == 0, done.stderr
    assert model_folder.stages_run() == {"export", "verify", "ledger"}
    report = model_folder.report()
    assert not report["revision"]
    assert [task["servedBy"] for task in report["tasks"]] == [None] * 4
    assert all("nothing is exported, not every task qualified" in task["reason"] for task in report["tasks"])
    assert (report["qualified"], report["total"]) == (3, 4)
    assert report["serving"]["compared"] == 0
    assert "no new result was promoted, 3 of 4 tasks qualified" in done.stdout


def test_the_revision_before_goes_on_serving(strict: tuple[ModelFolder, CommandResult], finished: ModelFolder):
    model_folder, done = strict
    before, now = ((one.work / "current").resolve().relative_to(one.work) for one in (finished, model_folder))
    assert before == now
    assert f"`mtm serve {model_folder.work}` still serves the one before" in done.stdout
    removed = mtm("gc", str(model_folder.work))
    assert removed.exit_code == 0
    assert (model_folder.work / "current/bundle/bundle.json").is_file()


def test_without_one_before_there_is_nothing_to_serve(strict: tuple[ModelFolder, CommandResult], tmp_path: Path):
    model_folder = strict[0].copy(tmp_path / "desk")
    (model_folder.work / "current").unlink()
    done = model_folder.mtm("run")
    assert done.exit_code == 0, done.stderr
    assert "nothing to serve: no new result was promoted, 3 of 4 tasks qualified" in done.stdout
    done = mtm("serve", str(model_folder.work))
    assert done.exit_code == 2
    assert "nothing to serve; its last run promoted no result, 3 of 4 tasks qualified" in done.stderr
