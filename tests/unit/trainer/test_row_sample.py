"""What plans estimate the tokens of rows from, before anything is measured."""

from __future__ import annotations

import json

import pytest

from multitask_api.stage_io.manifest import RowSample
from multitask_trainer.data.locations import DataLocations
from multitask_trainer.jobs import row_sample
from support.graph_builders import model, task

PROMPT = "Say: {text}"
ROWS = [{"text": "ab" * 5, "label": "a"}, {"text": "ü" * 20, "label": "b"}]
SIZES = [len("Say: ") + 10 + 1, len("Say: ") + 40 + 1]  # ü has two bytes


def sampled(folder, *lines, max_length=1024, kind="Classification", uri="train.jsonl"):
    (folder / "train.jsonl").write_text("".join(line + "\n" for line in lines))
    data = {split: {"uri": uri} for split in ("train", "validation", "test")}
    one = task("one", kind, prompt=PROMPT) | {"data": data}
    found = row_sample.sample_rows(model(one, training={"maxLength": max_length}).spec, DataLocations(folder, {}))
    return found.get("one")


def test_a_row_has_its_prompt_its_fields_and_its_answer_three_bytes_a_token(tmp_path):
    rows = [json.dumps(row, ensure_ascii=False) for row in ROWS]
    assert sampled(tmp_path, *rows) == RowSample(rows=2, is_complete=True, tokens=sum(SIZES) / 2 / 3)
    assert sampled(tmp_path, *rows, "no JSON", "{}", max_length=10).tokens == pytest.approx((SIZES[0] / 3 + 10) / 2), (
        "a long row is cut, what cannot be read is none, and nothing is raised for what validate names"
    )


def test_of_several_answers_the_first_is_trained_on(tmp_path):
    line = json.dumps({"text": "abc", "targets": ["four", "a longer one"]})
    assert sampled(tmp_path, line, kind="Generation").tokens == pytest.approx((5 + 3 + 4) / 3)


def test_no_more_rows_are_read_than_plans_need(tmp_path, monkeypatch):
    monkeypatch.setattr(row_sample, "MOST_ROWS", 2)
    rows = [json.dumps(ROWS[0])] * 3
    found = sampled(tmp_path, *rows)
    assert (found.rows, found.is_complete) == (2, False)
    assert sampled(tmp_path, *rows[:2]).is_complete


@pytest.mark.parametrize("uri", ["hf://org/name/train", "s3://bucket/train.jsonl", "absent.jsonl", "pvc://no/claim"])
def test_data_that_is_elsewhere_is_not_fetched_for_a_plan(tmp_path, uri):
    assert sampled(tmp_path, uri=uri) is None
