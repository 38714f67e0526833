"""`mtm study` with the real stage programs: two arms with other groups, from data to the page."""

from __future__ import annotations

import json

import pytest
import yaml

from support.small_suite import ModelFolder, document, mtm, reply_rows, topic_rows, urgency_rows, write_data

pytestmark = pytest.mark.integration

BATCH_ROWS, STEPS, BASELINE_STEPS = 8, 45, 20
ROWS = {"train": 64, "validation": 16, "test": 32}
ARMS = [
    {"name": "three-stages", "spec": {"stages": {"highResource": {"minSaturationSteps": 1}}}},
    {
        "name": "naive",
        "spec": {
            "filtering": {"strategy": "None"},
            "stages": {"mixture": {"temperature": 1}, "highResource": {"enabled": False}},
        },
    },
]


@pytest.fixture
def desk(tmp_path) -> ModelFolder:
    """Two classification tasks and one of generation, and a study of three stages against a naive mixture."""
    resource = document()
    spec = resource["spec"]
    spec["tasks"] = [task for task in spec["tasks"] if task["name"] != "mood"]
    spec["stages"] = {"baseline": {"maxSteps": BASELINE_STEPS}}
    spec["training"] |= {"batchRows": BATCH_ROWS, "evalEvery": 5, "minSteps": 10}
    del spec["pretraining"]
    for name, rows in {"topic": topic_rows(1), "urgency": urgency_rows(2), "reply": reply_rows(3)}.items():
        write_data(tmp_path / "data", name, rows, ROWS)
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(resource))
    study = {"kind": "Study", "metadata": {"name": "naive"}, "model": "model.yaml", "arms": ARMS, "seeds": 1}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump({**study, "totalSteps": STEPS}))
    return ModelFolder(tmp_path)


def test_both_arms_are_trained_on_as_many_rows_and_judged_by_the_same_baselines(desk):
    done = mtm("study", str(desk.folder), "--workdir", str(desk.work))
    assert done.exit_code == 0, done.stderr
    report = json.loads((desk.work / "studies/naive/study.json").read_text())
    three_stages, naive = (arm["runs"][0] for arm in report["arms"])
    assert three_stages["rows"] == naive["rows"] == STEPS * BATCH_ROWS
    for run in (three_stages, naive):
        assert sum(task["rows"] for task in run["tasks"].values()) == run["rows"]
        assert set(run["tasks"]) == {"topic", "urgency", "reply"}
        assert run["tokens"] > run["rows"]
        assert run["seconds"] > 0
    baselines = {name: task["baseline"] for name, task in three_stages["tasks"].items()}
    assert baselines == {name: task["baseline"] for name, task in naive["tasks"].items()}
    for task in naive["tasks"].values():
        if task["baseline"] > 0:
            assert task["ratio"] == pytest.approx(task["score"] / task["baseline"])
    (checkpoints,), (of_naive,) = three_stages["validations"], naive["validations"]
    assert checkpoints == of_naive, "as many checkpoints to choose from, though it has half of the steps"
    manifests = [json.loads(path.read_text()) for path in desk.work.glob("stages/mixture/*/*/manifest.json")]
    assert sorted(item["stage"] for item in manifests) == ["mixture/all", "mixture/classification"]
    assert all(item["result"]["endedBy"] in (None, "limit") for item in manifests)
    assert report["cost"]["uses"] - report["cost"]["results"] == 3 + 1 + 3, "data, base and baselines are shared"
    assert "fewer than 3 seeds" in report["conclusion"]
    assert report["conclusion"] in done.stdout
    assert report["conclusion"] in (desk.work / "studies/naive/study.md").read_text()
