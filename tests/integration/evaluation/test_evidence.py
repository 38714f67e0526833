"""The evidence phase of a GPU run, rehearsed on a CPU: equal rows, and a page whatever is finished."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import yaml

from support.gpu_box import run_phase

TASKS = {
    "tweet_irony": {"type": "binary", "metric": "macro_f1", "labels": ["irony", "none"]},
    "sst5": {"type": "ordinal", "metric": "accuracy", "labels": ["bad", "good"]},
    "e2e_nlg": {"type": "generation", "metric": "rouge_l"},
}
ROWS = {"train": 80, "validation": 12, "test": 24}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of three tasks like those of the open suite."""
    folder = tmp_path_factory.mktemp("suite")
    for name, about in TASKS.items():
        (folder / name).mkdir()
        (folder / name / "task.yaml").write_text(yaml.safe_dump(about), "utf-8")
        answers = about.get("labels", ["a small cafe", "a big hotel"])
        for split, count in ROWS.items():
            rows = [{"text": f"{split} {number}", "label": answers[number % 2]} for number in range(count)]
            if "labels" not in about:
                rows = [{"text": row["text"], "target": row["label"]} for row in rows]
            with gzip.open(folder / name / f"{split}.jsonl.gz", "wt", encoding="utf-8") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)
    return folder


@pytest.fixture
def box(rows: Path, tmp_path: Path) -> Path:
    """What the machine has received."""
    (tmp_path / "rows").symlink_to(rows)
    return tmp_path


def run(box: Path, minutes: int = 5) -> tuple[str, dict[str, list[dict[str, object]]]]:
    """The page, and the arms' reports."""
    options = ["--base", "builtin://tiny", "--device", "cpu"]
    options += ["--tasks", *TASKS, "--steps", "4", "--batch-rows", "8", "--rank", "6", "--seeds", "1"]
    options += ["--baseline-seeds", "1", "--jobs", "2", "--parallel", "2"]
    printed = run_phase(box, "evidence", str(minutes), *options)
    assert "evidence: status 0" in printed, printed
    return (box / "out/evidence.md").read_text("utf-8"), json.loads((box / "out/evidence.json").read_text("utf-8"))


@pytest.mark.integration
@pytest.mark.slow
def test_arms_get_equal_rows_and_a_second_call_trains_nothing(box: Path) -> None:
    page, arms = run(box)
    logs = "\n".join(log.read_text("utf-8") for log in (box / "evidence").glob("*.log"))
    assert sorted(arms) == ["cgc", "filtered", "naive", "three-stage"], page + logs
    assert "Not finished" not in page
    rows = {
        name: sum(
            count
            for group in reports[0]["groups"]
            for stage in ("stage2Rows", "stage3Rows")
            for count in group[stage].values()
        )
        for name, reports in arms.items()
    }
    assert rows["naive"] == rows["cgc"] == rows["filtered"] == rows["three-stage"] > 0
    assert logs.count("start  baseline/") == len(TASKS)  # of the first arm alone: the others have links to them
    run(box)
    assert "\n".join(log.read_text("utf-8") for log in (box / "evidence").glob("*.log")).count(
        "start  mixture/"
    ) == logs.count("start  mixture/")


def test_without_time_there_is_a_page(box: Path) -> None:
    page, arms = run(box, minutes=-1)
    assert arms == {}
    assert "three-stage-17: no time was left to begin it" in page
