"""``promote: AllQualified``: as long as one task fails, nothing new is served."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.small_suite import Done, ModelFolder, mtm


@pytest.fixture(scope="module")
def strict(finished: ModelFolder, tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelFolder, Done]:
    """A copy that now wants every task to qualify, and what its run said."""
    desk = finished.copy(tmp_path_factory.mktemp("strict") / "desk")
    desk.edit({"qualification": {"promote": "AllQualified"}})
    return desk, desk.mtm("run")


def test_nothing_new_is_exported(strict: tuple[ModelFolder, Done]):
    desk, done = strict
    assert done.status == 0, done.err
    assert desk.ran() == {"export", "verify", "ledger"}
    report = desk.report()
    assert not report["revision"]
    assert [task["servedBy"] for task in report["tasks"]] == [None] * 4
    assert all("nothing is exported, not every task qualified" in task["reason"] for task in report["tasks"])
    assert (report["qualified"], report["total"]) == (3, 4)
    assert report["serving"]["compared"] == 0
    assert "no new revision was promoted, 3 of 4 tasks qualified" in done.out


def test_the_revision_before_goes_on_serving(strict: tuple[ModelFolder, Done], finished: ModelFolder):
    desk, done = strict
    before, now = ((one.work / "current").resolve().relative_to(one.work) for one in (finished, desk))
    assert before == now
    assert f"`mtm serve {desk.work}` still serves the one before" in done.out
    removed = mtm("gc", str(desk.work))
    assert removed.status == 0
    assert (desk.work / "current/bundle/bundle.json").is_file()


def test_without_one_before_there_is_nothing_to_serve(strict: tuple[ModelFolder, Done], tmp_path: Path):
    desk = strict[0].copy(tmp_path / "desk")
    (desk.work / "current").unlink()
    done = desk.mtm("run")
    assert done.status == 0, done.err
    assert "nothing to serve: no new revision was promoted, 3 of 4 tasks qualified" in done.out
    done = mtm("serve", str(desk.work))
    assert done.status == 2
    assert "nothing to serve; its last run promoted no revision, 3 of 4 tasks qualified" in done.err
