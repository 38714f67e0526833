"""The support-desk suite: the properties of the generated rows, and that the resource files match them."""

from __future__ import annotations

import gzip
import importlib
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml

from multitask_api.resource import parse
from multitask_operator.commands.study.loading import load

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
SUITE = EXAMPLES / "support-desk"
NAMES = ["urgency", "intent", "complaint", "product-area", "same-issue", "escalate", "order-slots", "reply"]
#: Bounds of the fraction of wrong answers, all splits together.
NOISE = dict.fromkeys(NAMES, (0.03, 0.1)) | {"escalate": (0.15, 0.35)}


@pytest.fixture(scope="module")
def generate():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SUITE))
        yield importlib.import_module("generate")
        for name in ("generate", "phrases"):
            patch.delitem(sys.modules, name)


@pytest.fixture(scope="module")
def data(generate):
    return generate.suite(17)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The files as the command writes them, from another process with another hash seed."""
    out = tmp_path_factory.mktemp("suite")
    command = [sys.executable, str(SUITE / "generate.py"), "--seed", "17", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | {"PYTHONHASHSEED": "5"})
    return out, done.stdout


def rows_of(path):
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def everything(splits):
    return [example for examples in splits.values() for example in examples]


def test_the_same_seed_gives_the_same_bytes_in_another_process(generate, data, written, tmp_path):
    out, _ = written
    generate.write(data, tmp_path)
    files = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.gz"))
    assert len(files) == 3 * len(NAMES)
    for file in files:
        assert (tmp_path / file).read_bytes() == (out / file).read_bytes(), file


def test_another_seed_gives_other_rows(generate, data):
    task = next(task for task in generate.TASKS if task.name == "escalate")
    ours = {example.inputs for example in everything(data["escalate"])}
    theirs = {example.inputs for example in everything(generate.draw(task, 18))}
    assert len(ours & theirs) < 0.05 * len(ours)


def test_the_command_prints_every_task(written):
    _, printed = written
    assert [line.split()[0] for line in printed.splitlines()[1:]] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_files_hold_the_promised_number_of_rows_with_exactly_the_promised_fields(generate, written, name):
    out, _ = written
    task = next(task for task in generate.TASKS if task.name == name)
    fields = {"text", "label" if task.labels else "target"} | ({"text_pair"} if name == "same-issue" else set())
    for split, size in zip(generate.SPLITS, task.sizes, strict=True):
        rows = rows_of(out / name / f"{split}.jsonl.gz")
        assert len(rows) == size
        assert all(set(row) == fields and all(row.values()) for row in rows)


def test_sizes_span_two_orders_of_magnitude(data):
    sizes = [len(splits["train"]) for splits in data.values()]
    assert min(sizes) <= 120
    assert max(sizes) >= 8000
    assert all(len(splits["validation"]) >= 60 and 60 <= len(splits["test"]) <= 600 for splits in data.values())


@pytest.mark.parametrize("name", NAMES)
def test_noise_is_within_its_bounds_in_every_split(data, name):
    low, high = NOISE[name]
    rows = everything(data[name])
    assert low <= sum(each.answer != each.clean for each in rows) / len(rows) <= high
    for split, examples in data[name].items():
        wrong = sum(each.answer != each.clean for each in examples)
        # 4 standard deviations around the task's bounds: a split of 60 rows may stray that far.
        spread = 4 * (high * (1 - high) * len(examples)) ** 0.5
        assert low * len(examples) - spread <= wrong <= high * len(examples) + spread, split


@pytest.mark.parametrize("name", NAMES[:6])
def test_labels_are_the_declared_ones_all_of_them_occur_and_none_dominates(generate, data, name):
    declared = next(task.labels for task in generate.TASKS if task.name == name)
    for split in ("train", "validation", "test"):
        assert {example.answer for example in data[name][split]} <= set(declared)
    counts = Counter(example.answer for example in data[name]["train"])
    assert set(counts) == set(declared)
    assert max(counts.values()) <= 1.5 * len(data[name]["train"]) / len(declared)


def test_urgency_is_spoiled_by_one_level_at_most(data):
    levels = ["low", "medium", "high"]
    for example in everything(data["urgency"]):
        assert abs(levels.index(example.answer) - levels.index(example.clean)) <= 1


def test_clean_slots_stand_in_the_message(data):
    for example in everything(data["order-slots"]):
        product, order = (part.split(": ")[1] for part in example.clean.split("; "))
        assert {product, order} <= set(example.row["text"].replace(".", " ").replace(",", " ").split())


def test_clean_pairs_share_their_issue_or_none_of_it(generate, data):
    def issue(text):
        words = set(text.replace(".", " ").replace(",", " ").split())
        return [next(value for value in values if value in words) for values in generate.ISSUE]

    for example in everything(data["same-issue"])[:1500]:
        agree = [one == two for one, two in zip(*map(issue, example.inputs), strict=True)]
        assert all(agree) if example.clean == "same" else not any(agree)


@pytest.mark.parametrize("name", NAMES)
def test_messages_are_short_and_no_two_rows_of_a_task_are_equal(data, name):
    inputs = [example.inputs for example in everything(data[name])]
    assert len(set(inputs)) == len(inputs)
    assert max(len(" ".join(each).split()) for each in inputs) <= 45


def test_no_tasks_test_messages_stand_in_another_tasks_train_rows(data):
    train = {example.inputs for splits in data.values() for example in splits["train"]}
    for name, splits in data.items():
        known = sum(example.inputs in train for example in splits["test"])
        assert known <= 0.01 * len(splits["test"]), name


def test_words_alone_learn_the_message_tasks_but_not_the_pair(generate, data):
    lines = [line.split() for line in generate.check(data).splitlines()[1:]]
    scores = {name: (float(floor), float(ngrams), float(ceiling)) for name, floor, ngrams, ceiling in lines}
    for name in ("urgency", "intent", "complaint", "product-area"):
        floor, ngrams, ceiling = scores[name]
        assert floor + 0.15 < ngrams < ceiling < 0.97, name
    assert scores["same-issue"][1] < 0.60


@pytest.mark.parametrize("folder", ["support-desk", "lora"])
def test_resource_files_fit_the_suite(generate, folder):
    file = EXAMPLES / folder / "model.yaml"
    model = parse(file.read_text(encoding="utf-8"))
    ours = {task.name: task for task in generate.TASKS}
    for task in model.spec.tasks:
        assert task.labels == ours[task.name].labels
        for split in generate.SPLITS:
            uri = getattr(task.data, split).uri.replace("pvc://support-desk/", "")  # --claim support-desk=FOLDER
            path = (file.parent / uri).resolve()
            assert path == SUITE / "data" / task.name / f"{split}.jsonl.gz"
    if folder == "support-desk":
        claim = yaml.safe_load((SUITE / "claim.yaml").read_text(encoding="utf-8"))
        assert model.spec.storage.uri == f"pvc://{claim['metadata']['name']}/artifacts"
        assert [task.name for task in model.spec.tasks] == NAMES


def test_the_study_compares_two_strategies_and_two_temperatures_of_the_model():
    loaded = load(SUITE / "study" / "study.yaml")
    assert loaded.model.metadata.name == "support-desk"
    arms = dict.fromkeys(run.arm for run in loaded.runs)
    found = [(arm.model.spec.filtering.strategy, arm.model.spec.stages.mixture.temperature) for arm in arms]
    assert found == [("Type", 2), ("Type", 1), ("None", 2), ("None", 1)]
    assert len(loaded.runs) == 3 * len(arms)
    assert [path.name for path in sorted(SUITE.glob("*.yaml"))] == ["claim.yaml", "model.yaml"], (
        "kubectl takes all files of the folder"
    )
