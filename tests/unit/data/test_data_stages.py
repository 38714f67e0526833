"""The programs prepare, resolve and data_check, run as an executor runs them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import s3fs

from multitask_api.data_check import DataReport
from multitask_api.resource import MultiTaskModel
from multitask_api.resource.parsing import check
from multitask_api.stage_io.manifest import Manifest, Resolved, StageFailure, StageOrder
from multitask_api.stage_io.parameters import PrepareParameters
from multitask_api.stage_io.results import PrepareResult
from multitask_trainer.data.fingerprints import RECENT_SECONDS, HashCache, resolve_data, resolve_folder
from multitask_trainer.data.locations import DataLocations
from multitask_trainer.data.rows import Row, read_inputs, read_rows
from multitask_trainer.jobs import data_check
from multitask_trainer.runtime.runner import main
from multitask_trainer.stages import prepare, resolve
from support.data_builders import GOOD, data, task, write, write_base

OFFLINE = (
    "HF_HUB_OFFLINE keeps this machine from asking the hub, and it has no copy; unset it, or give the path of a copy as"
    " uri"
)


def order(folder: Path, rows: Any, fingerprints: dict[str, str] | None = None) -> Path:
    parameters = PrepareParameters(task=task(), data=rows, fingerprints=fingerprints or {})
    stage_order = StageOrder(
        model="desk",
        stage="prepare/urgency",
        kind="prepare",
        digest="d",
        version=1,
        parameters=parameters.to_json(),
        read_outputs={},
        inputs={},
        output=str(folder / "out"),
        work=str(folder / "work"),
        data_root=str(folder),
    )
    path = folder / "order.json"
    path.write_text(stage_order.model_dump_json(by_alias=True))
    return path


def prepared(folder: Path, rows: Any) -> Manifest:
    assert main(prepare.work, ["--order", str(order(folder, rows))]) == 0
    return Manifest.model_validate_json((folder / "out" / "manifest.json").read_text())


def test_prepare_leaves_rows_hashes_counts_and_digests(tmp_path: Path) -> None:
    manifest = prepared(tmp_path, data(tmp_path, train=GOOD * 2))
    result = PrepareResult.model_validate(manifest.result)
    assert (result.rows.train, result.rows.validation, result.rows.test) == (4, 2, 2)
    assert result.label_counts["train"] == {"high": 2, "low": 2}
    assert result.characters == {"train": 42, "validation": 21, "test": 21}
    assert result.test_rows_in_train == 2
    assert sorted(manifest.outputs) == ["rows", "test", "train", "validation"]
    assert manifest.outputs["test"] == manifest.outputs["validation"] != manifest.outputs["train"]
    assert sorted(manifest.files) == ["inputs.npz", "test.parquet", "train.parquet", "validation.parquet"]
    assert read_rows(tmp_path / "out", "test") == [
        Row({"text": "broken again"}, "high"),
        Row({"text": "thank you"}, "low"),
    ]
    inputs = read_inputs(tmp_path / "out")
    assert np.isin(inputs["test"], inputs["train"]).all()


def test_prepare_fails_with_all_bad_rows_and_leaves_the_whole_list(tmp_path: Path) -> None:
    bad = [*GOOD, {"text": None, "label": "low"}, {"text": "a", "label": "hihg"}]
    assert main(prepare.work, ["--order", str(order(tmp_path, data(tmp_path, train=bad, test=bad)))]) == 2
    failure = StageFailure.model_validate_json((tmp_path / "work" / "failure.json").read_text())
    assert failure.kind == "UserError"
    assert "train: train.jsonl, line 3: text: null; write a string or a number" in failure.message
    assert (
        "test: test.jsonl, line 4: label: 'hihg' is not one of the task's labels; did you mean 'high'?"
        in failure.message
    )
    assert "4 bad rows in all" in failure.message
    listed = [json.loads(line) for line in (tmp_path / "work" / "bad_rows.jsonl").read_text().splitlines()]
    assert [(row["split"], row["line"], row["field"]) for row in listed] == [
        ("train", 3, "text"),
        ("train", 4, "label"),
        ("test", 3, "text"),
        ("test", 4, "label"),
    ]
    assert not (tmp_path / "out").exists()


def test_prepare_drops_what_the_task_allows_and_says_so(tmp_path: Path) -> None:
    manifest = prepared(tmp_path, data(tmp_path, train=[*GOOD, {"text": "a"}], maxBadRows=1))
    result = PrepareResult.model_validate(manifest.result)
    assert (result.rows.train, result.bad_rows) == (2, 1)
    assert result.warnings[0] == "1 bad rows dropped, as data.maxBadRows allows"
    assert "bad_rows.jsonl" in manifest.files


def test_prepare_keeps_no_rows_under_the_digest_of_others(tmp_path: Path) -> None:
    rows = data(tmp_path)
    resolved_data = resolve_data("train.jsonl", DataLocations(tmp_path), HashCache())
    assert resolved_data.fingerprint
    order_file = order(tmp_path, rows, {"train": resolved_data.fingerprint})
    assert main(prepare.work, ["--order", str(order_file)]) == 0
    shutil.rmtree(tmp_path / "out")
    write(tmp_path, "train.jsonl", [*GOOD, *GOOD])
    assert main(prepare.work, ["--order", str(order_file)]) == 2
    failure = StageFailure.model_validate_json((tmp_path / "work" / "failure.json").read_text())
    assert failure.message == "train: train.jsonl has changed since this run began; start the run again"


def resource(**changes: Any) -> dict[str, Any]:
    splits = {split: {"uri": f"{split}.jsonl"} for split in ("train", "validation", "test")}
    named = {"name": "urgency", "type": "Classification", "labels": ["low", "high"], "prompt": "{text}", "data": splits}
    return {"metadata": {"name": "desk"}, "spec": {"baseModel": {"uri": "builtin://micro"}, "tasks": [named]} | changes}


def model_file(folder: Path, **changes: Any) -> Path:
    path = folder / "model.json"
    path.write_text(check(resource(**changes)).model_dump_json(by_alias=True, exclude_none=True))
    return path


def resolved(folder: Path, **changes: Any) -> Resolved:
    arguments = ["--model", model_file(folder, **changes), "--data-root", folder, "--cache", folder / "cache.json"]
    out = folder / "resolved.json"
    assert resolve.main([str(argument) for argument in (*arguments, "--out", out)]) == 0
    return Resolved.model_validate_json(out.read_text())


def test_resolve_fingerprints_content_not_addresses(tmp_path: Path) -> None:
    data(tmp_path)
    before = resolved(tmp_path)
    assert before.problems == ()
    fingerprints = {address: item.fingerprint for address, item in before.data.items()}
    assert len(set(fingerprints.values())) == 1  # the three files hold the same rows
    assert before.data["train.jsonl"].files == 1
    assert before.data["train.jsonl"].bytes == (tmp_path / "train.jsonl").stat().st_size
    write(tmp_path, "train.jsonl", GOOD[:1])
    after = resolved(tmp_path)
    assert after.data["train.jsonl"].fingerprint != fingerprints["train.jsonl"]
    assert after.data["test.jsonl"].fingerprint == fingerprints["test.jsonl"]


@dataclass
class Clock:
    """Seconds since the epoch, as a cache reads them; the tests' files are written at the real time."""

    ahead: float

    def __call__(self) -> float:
        return time.time() + self.ahead


def fingerprint(folder: Path, cache: HashCache) -> str | None:
    found = resolve_data("train.jsonl", DataLocations(folder), cache)
    cache.save()
    assert found.problem is None
    return found.fingerprint


def test_a_file_that_has_settled_is_hashed_once(tmp_path: Path) -> None:
    data(tmp_path)
    cache = tmp_path / "cache.json"
    first = fingerprint(tmp_path, HashCache(cache, Clock(60)))
    known = json.loads(cache.read_text())
    assert len(known) == 1
    cache.write_text(json.dumps(dict.fromkeys(known, "0" * 64)))
    assert fingerprint(tmp_path, HashCache(cache, Clock(60))) != first
    cache.write_text("no JSON")
    assert fingerprint(tmp_path, HashCache(cache, Clock(60))) == first


def test_a_change_a_moment_ago_is_not_taken_for_settled(tmp_path: Path) -> None:
    """A change in the same tick of the file system's clock leaves every time and the size as they were."""
    data(tmp_path)
    for ahead in (0.0, RECENT_SECONDS - 1, -3600.0):  # of a file server whose clock is an hour ahead, too
        fingerprint(tmp_path, HashCache(tmp_path / "cache.json", Clock(ahead)))
        assert json.loads((tmp_path / "cache.json").read_text()) == {}


@pytest.mark.parametrize("how", ["written in place", "replaced by another file"])
def test_a_change_under_the_same_size_and_mtime_is_seen(tmp_path: Path, how: str) -> None:
    data(tmp_path)
    cache, file = tmp_path / "cache.json", tmp_path / "train.jsonl"
    before = fingerprint(tmp_path, HashCache(cache, Clock(60)))
    stat = file.stat()
    changed = file.read_bytes().replace(b"broken", b"superb")
    if how == "written in place":
        file.write_bytes(changed)
    else:
        (tmp_path / "new").write_bytes(changed)
        (tmp_path / "new").rename(file)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    assert fingerprint(tmp_path, HashCache(cache, Clock(60))) != before


def test_a_store_that_tells_nothing_of_the_content_is_read_each_time(tmp_path: Path) -> None:
    store = fsspec.filesystem("memory")
    cache = tmp_path / "cache.json"
    found = []
    for rows in (b'{"text": "a"}\n', b'{"text": "b"}\n'):
        store.pipe("/quiet/rows.jsonl", rows)
        hashes = HashCache(cache, Clock(60))
        found.append(resolve_data("memory://quiet/rows.jsonl", DataLocations(tmp_path), hashes).fingerprint)
        hashes.save()
    assert found[0] != found[1]
    assert json.loads(cache.read_text()) == {}


def test_resolve_fingerprints_a_base_that_is_a_folder(tmp_path: Path) -> None:
    weights = write_base(tmp_path / "base") / "model.safetensors"
    first = resolved(tmp_path, baseModel={"uri": "base"}).data["base"]
    assert (first.files, first.bytes, first.problem) == (3, 4 + weights.stat().st_size, None)
    write(tmp_path, "base/.cache/lock", b"")
    shutil.copytree(tmp_path / "base", tmp_path / "copy")
    assert resolved(tmp_path, baseModel={"uri": f"file://{tmp_path}/copy"}).data[f"file://{tmp_path}/copy"] == first
    weights.write_bytes(weights.read_bytes().replace(bytes(16), b"trained" + bytes(9)))
    assert resolved(tmp_path, baseModel={"uri": "base"}).data["base"].fingerprint != first.fingerprint
    (tmp_path / "copy/tokenizer.json").rename(tmp_path / "copy/vocab.json")
    assert resolved(tmp_path, baseModel={"uri": "copy"}).data["copy"].fingerprint != first.fingerprint


def test_resolve_fingerprints_a_base_elsewhere(tmp_path: Path) -> None:
    write(tmp_path, "base/config.json", b"{}")
    store = fsspec.filesystem("memory")
    store.pipe("/bases/chat/config.json", b"{}")
    locations = DataLocations(tmp_path)
    folder_data = resolve_folder("memory://bases/chat", locations, HashCache())
    assert (folder_data.problem, folder_data.files) == (None, 1)
    assert folder_data.fingerprint == resolve_folder("base", locations, HashCache()).fingerprint
    store.rm("/bases", recursive=True)
    assert resolve_folder("memory://bases/chat", locations, HashCache()).problem == (
        "no such file or folder; check the address and its spelling"
    )


def test_a_base_without_files_is_a_problem(tmp_path: Path) -> None:
    data(tmp_path)
    (tmp_path / "empty").mkdir()
    assert resolved(tmp_path, baseModel={"uri": "empty"}).problems == (
        "spec.baseModel.uri: empty: no file in this folder; give the folder that holds the model's config.json",
    )
    [problem] = resolved(tmp_path, baseModel={"uri": "emty"}).problems
    assert problem.startswith("spec.baseModel.uri: emty: no such folder (")
    assert problem.endswith("did you mean empty?")


def test_resolve_collects_every_problem(tmp_path: Path) -> None:
    data(tmp_path)
    (tmp_path / "test.jsonl").unlink()
    (tmp_path / "hollow").mkdir()
    corpus = [{"uri": "hollow"}, {"uri": "pvc://claim/x.jsonl"}, {"uri": "hf://org/corpus/train"}]
    base = {"uri": "hf://org/model", "revision": "main"}
    report = resolved(tmp_path, baseModel=base, pretraining={"maxSteps": 1, "corpus": corpus})
    corpus_field = "spec.pretraining.corpus"
    assert [problem.split(" (")[0] for problem in report.problems] == [
        "spec.tasks[0].data.test.uri: test.jsonl: no such file or folder",
        f"{corpus_field}[0].uri: hollow: no .jsonl, .json, .csv, .tsv or .parquet file in this folder; it is empty",
        (
            f"{corpus_field}[1].uri: pvc://claim/x.jsonl: no folder stands for claim 'claim' here; add --claim claim="
            "DIR to the command"
        ),
        f"{corpus_field}[2].uri: hf://org/corpus/train: hf://org/corpus: {OFFLINE}",
        f"spec.baseModel.uri: hf://org/model@main: {OFFLINE}",
    ]
    assert report.revision is None
    assert report.data["train.jsonl"].fingerprint


def test_a_name_that_the_hub_cannot_have_is_a_problem(tmp_path: Path) -> None:
    data(tmp_path)
    [problem] = resolved(tmp_path, baseModel={"uri": "hf://org/a..b"}).problems
    assert problem.startswith("spec.baseModel.uri: hf://org/a..b: not a name that the hub can have (")


def test_a_hub_that_does_not_answer_is_named_with_what_helps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    [problem] = resolved(tmp_path, baseModel={"uri": "hf://org/model"}).problems
    assert problem == (
        "spec.baseModel.uri: hf://org/model: the hub at 127.0.0.1:9 cannot be reached ([Errno 111] Connection refused),"
        " and this machine has no copy; set HTTPS_PROXY where a proxy leads to it, or HF_ENDPOINT where it has a mirror"
        " (in a cluster proxy and hubEndpoint of the chart), or give the path of a copy as uri"
    )
    commit = "0123456789abcdef0123456789abcdef01234567"
    assert resolved(tmp_path, baseModel={"uri": "hf://org/model", "revision": commit}).problems == ()


def test_resolve_keeps_a_commit_and_uses_the_cache_offline(tmp_path: Path, monkeypatch: Any) -> None:
    data(tmp_path)
    commit = "0123456789abcdef0123456789abcdef01234567"
    assert resolved(tmp_path, baseModel={"uri": "hf://org/model", "revision": commit}).revision == commit
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    write(tmp_path, "models--org--model/refs/main", commit.encode())
    assert resolved(tmp_path, baseModel={"uri": "hf://org/model"}).revision == commit


def test_look_gives_every_problem_of_every_task_at_once(tmp_path: Path, capsys: Any) -> None:
    data(tmp_path, train=[*GOOD, {"text": "a", "label": "x"}], test=[])
    write(tmp_path, "base/README.md", b"")
    status = data_check.main(
        ["--model", str(model_file(tmp_path, baseModel={"uri": "base"})), "--data-root", str(tmp_path), "--json"]
    )
    report = DataReport.model_validate_json(capsys.readouterr().out)
    assert status == 2
    assert [(problem.path, problem.message.split(" (")[0]) for problem in report.problems] == [
        ("spec.baseModel.uri", "base: no config.json there"),
        (
            "spec.tasks[0].data.train",
            "train.jsonl, line 3: label: 'x' is not one of the task's labels; they are 'low', 'high'",
        ),
        ("spec.tasks[0].data.test", "test.jsonl: there are no rows; a split needs at least one"),
    ]
    assert [(item.name, item.rows.train, item.bad_rows) for item in report.tasks] == [("urgency", 2, 1)]


def test_one_task_whose_store_does_not_answer_hides_nothing_of_the_others(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    data(tmp_path, train=[*GOOD, {"text": "a", "label": "x"}])
    tasks = resource()["spec"]["tasks"]
    remote = tasks[0]["data"] | {"train": {"uri": "s3://bucket/train.jsonl"}}
    tasks.insert(0, tasks[0] | {"name": "remote", "data": remote})
    arguments = ["--model", str(model_file(tmp_path, tasks=tasks)), "--data-root", str(tmp_path), "--json"]
    assert data_check.main(arguments) == 2
    report = DataReport.model_validate_json(capsys.readouterr().out)
    assert [(problem.path, problem.message[:30]) for problem in report.problems] == [
        ("spec.tasks[0].data", "s3://bucket/train.jsonl: canno"),
        ("spec.tasks[1].data.train", "train.jsonl, line 3: label: 'x"),
    ]
    assert [item.name for item in report.tasks] == ["urgency"]
    found = resolve_data("s3://bucket/train.jsonl", DataLocations(tmp_path), HashCache())
    assert found.problem is not None
    assert "cannot be reached" in found.problem


def test_a_store_without_credentials_is_one_problem_that_says_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    s3fs.S3FileSystem.clear_instance_cache()
    data(tmp_path)
    tasks = resource()["spec"]["tasks"]
    tasks[0]["data"]["train"]["uri"] = "s3://bucket/train.jsonl"
    tasks[0]["data"]["test"]["uri"] = "s3://bucket/test.jsonl"
    file = model_file(tmp_path, tasks=tasks, baseModel={"uri": "s3://bucket/base"})
    spec = MultiTaskModel.model_validate_json(file.read_text()).spec
    found = resolve.resolve(spec, DataLocations(tmp_path), HashCache()).problems
    checked = data_check.check_data(spec, DataLocations(tmp_path)).problems
    s3fs.S3FileSystem.clear_instance_cache()
    message = (
        "no credentials for this store (Unable to locate credentials); set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        " in the environment of the command, in a cluster in a Secret of spec.credentials"
    )
    assert found == (f"spec.tasks[0].data.train.uri: s3://bucket/train.jsonl, and 2 more: {message}",)
    assert [(problem.path, problem.message) for problem in checked] == [
        ("spec.baseModel.uri", f"s3://bucket/base: {message}"),
        ("spec.tasks[0].data", f"s3://bucket/train.jsonl: {message}; the rows of this task were not checked"),
    ]


def test_files_that_break_in_one_task_hide_nothing_of_the_others(tmp_path: Path, capsys: Any) -> None:
    data(tmp_path, train=[*GOOD, {"text": "a", "label": "x"}])
    write(tmp_path, "cut.parquet", b"PAR1" + b"\xff" * 40 + b"PAR1")
    (tmp_path / "gone.jsonl").symlink_to("nowhere")
    broken = {"train": {"uri": "cut.parquet"}, "validation": {"uri": "gone.jsonl"}, "test": {"uri": "test.jsonl"}}
    tasks = resource()["spec"]["tasks"]
    tasks.insert(0, tasks[0] | {"name": "broken", "data": broken})
    arguments = ["--model", str(model_file(tmp_path, tasks=tasks)), "--data-root", str(tmp_path), "--json"]
    assert data_check.main(arguments) == 2
    report = DataReport.model_validate_json(capsys.readouterr().out)
    assert [(problem.path, problem.message.split(" (")[0]) for problem in report.problems] == [
        ("spec.tasks[0].data.train", "cut.parquet: not a parquet file, or a damaged one"),
        (
            "spec.tasks[0].data.validation",
            "gone.jsonl: a link to nowhere, which does not exist; restore the file, or remove the link",
        ),
        (
            "spec.tasks[1].data.train",
            "train.jsonl, line 3: label: 'x' is not one of the task's labels; they are 'low', 'high'",
        ),
    ]


def test_look_as_text(tmp_path: Path, capsys: Any) -> None:
    data(tmp_path)
    assert data_check.main(["--model", str(model_file(tmp_path)), "--data-root", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "urgency: 2 train, 2 validation, 2 test rows",
        "  warning: test: 2 of 2 rows have an input that is in train",
        (
            "hint: spec.tuning.method: LoRA trains adapters over frozen weights, and those of"
            " builtin://micro are random; set method: Full, or add spec.pretraining"
        ),
    ]


def test_resolve_and_look_start_without_torch() -> None:
    code = (
        "import sys, multitask_trainer.jobs.data_check, multitask_trainer.stages.resolve;"
        "print([name for name in ('torch', 'transformers', 'datasets', 'sklearn') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    assert done.stdout.strip() == "[]"
