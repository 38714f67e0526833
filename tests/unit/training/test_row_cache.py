"""Encoded rows are made once, are those that the encoder makes, and a file that is not whole is made anew."""

from __future__ import annotations

import errno
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch

from multitask_api.bundle import PromptFormat
from multitask_api.stage_io.parameters import GradientsParameters
from multitask_trainer.base_model.builtin import make_tokenizer
from multitask_trainer.data.rows import PreparedSplit, Row, read_rows, write_rows
from multitask_trainer.errors import ArtifactError, DataError
from multitask_trainer.storage import artifacts
from multitask_trainer.training.batching import dataset as datasets
from multitask_trainer.training.batching import row_file
from multitask_trainer.training.batching.dataset import EncodedDataset, TaskEncoder
from multitask_trainer.training.batching.row_cache import RowCache
from multitask_trainer.training.batching.sampler import Sampler
from multitask_trainer.training.batching.task_batches import TaskBatches
from multitask_trainer.training.validation import MAX_ROWS, TaskValidation
from support import encode_rows
from support.training_fixtures import KIND, REPEAT, TASKS, TrainingSuite, base_parameters, rows, train_parameters

TEXTS = [text for row in rows("kind", 300, 0) for text in (*row.fields.values(), " fruit", " tool")]


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer(TEXTS, 400)


@pytest.fixture
def encoded_rows(monkeypatch) -> list[int]:
    """How many rows each call of the tokenizer got, as they come."""
    calls: list[int] = []
    encode_prompts = datasets.encode_prompts

    def counted(requests, tokenizer):
        calls.append(len(requests))
        return encode_prompts(requests, tokenizer)

    monkeypatch.setattr(datasets, "encode_prompts", counted)
    return calls


def encoder(tokenizer, task=KIND, max_length=48):
    return TaskEncoder.of(task, tokenizer, max_length=max_length, chat_template=False, prompt_format=PromptFormat())


def written(folder: Path, given: list[Row]) -> PreparedSplit:
    folder.mkdir(exist_ok=True)
    write_rows(folder, "train", given)
    return PreparedSplit(folder / "train.parquet", "prepare__kind-d1")


def cache(folder: Path, mirror: str | None = None) -> RowCache:
    return RowCache(folder / "rows", "a tokenizer", mirror)


def assert_equal(left: EncodedDataset, right: EncodedDataset) -> None:
    for name in ("ids", "starts", "prompt_lengths", "cut"):
        one, other = getattr(left, name), getattr(right, name)
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


# rows → how they are encoded; 5,000 are more than one part
ROWS = {
    "labels": (rows("kind", 60, 0), KIND, 48),
    "many": (rows("kind", 5000, 0), KIND, 48),
    "targets, one of them cut": ([*rows("repeat", 40, 0), Row({"text": "x"}, None, ("zz" * 40,))], REPEAT, 48),
    "cut fields": ([Row({"text": "plum " * 60}, "tool"), *rows("kind", 20, 0)], KIND, 24),
    "none": ([], KIND, 48),
}


@pytest.mark.parametrize("name", ROWS)
def test_the_file_has_the_rows_that_the_encoder_makes_and_makes_them_once(tokenizer, tmp_path, encoded_rows, name):
    given, task, max_length = ROWS[name]
    made_by = encoder(tokenizer, task, max_length)
    expected = made_by.encode(given)
    split = written(tmp_path / "prepared", given)
    del encoded_rows[:]
    assert_equal(cache(tmp_path).encode(made_by, split), expected)
    assert sum(encoded_rows) == len(given)
    assert_equal(
        cache(tmp_path).encode(encoder(tokenizer, task, max_length), PreparedSplit(split.path, split.source)),
        expected,
    )
    assert sum(encoded_rows) == len(given), "encoded again"
    assert expected.truncated == (name in ("targets, one of them cut", "cut fields"))


def test_the_batches_of_every_step_are_those_of_rows_in_memory(tokenizer, tmp_path):
    made_by, given = encoder(tokenizer), rows("kind", 90, 0)
    mapped = cache(tmp_path).encode(made_by, written(tmp_path / "prepared", given))
    for pack in (False, True):
        in_memory, from_file = (
            TaskBatches(Sampler({"kind": 1.0}, {"kind": 90}, batch_rows=16, seed=3), [dataset], 16, 512, pack)
            for dataset in (made_by.encode(given), mapped)
        )
        assert in_memory.width == from_file.width
        for step in range(8):
            for one, other in zip(in_memory.at(step), from_file.at(step), strict=True):
                for field, value in vars(one).items():
                    same = (
                        torch.equal(value, getattr(other, field))
                        if isinstance(value, torch.Tensor)
                        else value == getattr(other, field)
                    )
                    assert same, (step, field)


CHANGES: dict[str, Callable[[TaskEncoder], TaskEncoder]] = {
    "the maximum length": lambda one: encoder(one.tokenizer, max_length=40),
    "the prompt": lambda one: encoder(one.tokenizer, KIND.model_copy(update={"prompt": "{text}\nWhat:"})),
    "a label": lambda one: encoder(one.tokenizer, KIND.model_copy(update={"labels": ("fruit", "tool", "file")})),
}  # fmt: skip


@pytest.mark.parametrize("what", [*CHANGES, "a row", "the tokenizer", "the order of the rows"])
def test_rows_are_encoded_again_when_something_else_comes_out(tokenizer, tmp_path, encoded_rows, what):
    given = rows("kind", 30, 0)
    first = encoder(tokenizer)
    cache(tmp_path).encode(first, written(tmp_path / "prepared", given))
    second, kept = first, cache(tmp_path)
    if what == "a row":
        given = [*given[:-1], Row({"text": "we have another"}, "tool")]
    elif what == "the order of the rows":
        given = given[::-1]
    elif what == "the tokenizer":
        kept = RowCache(kept.folder, "another tokenizer")
    else:
        second = CHANGES[what](first)
    del encoded_rows[:]
    assert_equal(kept.encode(second, written(tmp_path / "prepared", given)), second.encode(given))
    assert sum(encoded_rows) == 2 * 30


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "it ends early": lambda content: content[:-7],
    "it is empty": lambda content: b"",
    "a bit of a token": lambda content: content[:40] + bytes([content[40] ^ 1]) + content[41:],
    "a bit of the last byte": lambda content: content[:-1] + bytes([content[-1] ^ 4]),
    "its header is that of more rows": lambda content: content[:8] + bytes([content[8] + 1]) + content[9:],
    "it is another file": lambda content: b"something else" * 300,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_made_anew(tokenizer, tmp_path, encoded_rows, capsys, damage):
    made_by, split = encoder(tokenizer), written(tmp_path / "prepared", rows("kind", 25, 0))
    expected = cache(tmp_path).encode(made_by, split)
    kept = EncodedDataset(*(getattr(expected, name).copy() for name in ("ids", "starts", "prompt_lengths", "cut")))
    [path] = (tmp_path / "rows").rglob("*.bin")
    content = path.read_bytes()
    path.unlink()  # the arrays of the first reader stay as they are
    path.write_bytes(DAMAGE[damage](content))
    del encoded_rows[:]
    assert_equal(cache(tmp_path).encode(made_by, split), kept)
    assert sum(encoded_rows) == 25
    assert "it is made anew" in capsys.readouterr().err
    assert path.read_bytes() == content


def test_what_a_killed_process_left_is_removed(tokenizer, tmp_path):
    made_by, split = encoder(tokenizer), written(tmp_path / "prepared", rows("kind", 25, 0))
    cache(tmp_path).encode(made_by, split)
    [path] = (tmp_path / "rows").rglob("*.bin")
    path.unlink()
    ended = subprocess.Popen(["true"])
    ended.wait()
    left, written_now = (
        path.with_name(f".{path.name}.{platform.node()}.{process}.abcdefgh") for process in (ended.pid, 1)
    )
    for unfinished in (left, written_now):
        unfinished.write_bytes(b"half")
    cache(tmp_path).encode(made_by, split)
    assert path.exists()
    assert not left.exists()
    assert written_now.exists()


def test_an_error_of_a_row_leaves_no_file(tokenizer, tmp_path):
    made_by = encoder(tokenizer, REPEAT.model_copy(update={"prompt": "{text} "}))
    split = written(tmp_path / "prepared", [Row({"text": "x"}, None, ("",))])
    with pytest.raises(DataError, match="a row's target has no text"):
        cache(tmp_path).encode(made_by, split)
    assert not [path for path in (tmp_path / "rows").rglob("*.bin*") if path.suffix != ".lock"]


def test_of_two_processes_at_once_one_encodes(tokenizer, tmp_path):
    given = rows("kind", 9000, 0)
    expected = encoder(tokenizer).encode(given)
    written(tmp_path / "prepared", given)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    (tmp_path / "task.json").write_text(KIND.model_dump_json(by_alias=True))
    argv = [sys.executable, encode_rows.__file__, str(tmp_path)]
    processes = [subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        assert [process.stdout.readline() for process in processes] == ["ready\n"] * 2
        (tmp_path / "begin").touch()
        found = sorted(process.communicate(timeout=60)[0] for process in processes)
    finally:
        for process in processes:
            process.kill()
    assert found == [f"{count} 9000 {expected.ids.sum()}\n" for count in (0, 9000)]
    assert len(list((tmp_path / "rows").rglob("*.bin"))) == 1


def test_a_pod_whose_folder_is_empty_takes_the_copy_at_the_mirror(tokenizer, tmp_path, encoded_rows):
    mirror = f"memory://bucket-{tmp_path.name}/work/desk/rows"
    made_by, split = encoder(tokenizer), written(tmp_path / "prepared", rows("kind", 25, 0))
    first = cache(tmp_path / "pod-1", mirror).encode(made_by, split)
    assert_equal(cache(tmp_path / "pod-2", mirror).encode(made_by, split), first)
    assert sum(encoded_rows) == 25
    fs, root = fsspec.url_to_fs(mirror)
    [copy] = fs.find(root)
    fs.pipe_file(copy, b"damaged")
    assert_equal(cache(tmp_path / "pod-3", mirror).encode(made_by, split), first)
    assert sum(encoded_rows) == 50
    assert fs.cat_file(copy) != b"damaged"


def test_a_file_system_without_locks_and_maps_will_do(tokenizer, tmp_path, monkeypatch, encoded_rows):
    def refuse(number: int):
        def call(*_: object, **__: object) -> None:
            raise OSError(number, "not here")

        return call

    monkeypatch.setattr(artifacts, "flock", refuse(errno.EOPNOTSUPP))
    monkeypatch.setattr(row_file.mmap, "mmap", refuse(errno.ENODEV))
    made_by, given = encoder(tokenizer), rows("kind", 25, 0)
    split = written(tmp_path / "prepared", given)
    for _ in range(2):
        assert_equal(cache(tmp_path).encode(made_by, split), made_by.encode(given))
    assert encoded_rows == [25] * 3, "once for the file, twice for the comparison"
    monkeypatch.setattr(artifacts, "flock", refuse(errno.EIO))
    with pytest.raises(OSError, match="not here"):
        cache(tmp_path / "elsewhere").encode(made_by, split)


@pytest.mark.parametrize("count", [80, 5200])
def test_validation_takes_the_same_rows_from_the_file_and_reads_no_others(tokenizer, tmp_path, encoded_rows, count):
    made_by, given = encoder(tokenizer), rows("kind", count, 0)
    split = written(tmp_path / "prepared", given)
    expected = TaskValidation.of(made_by, given)
    found = TaskValidation.of_split(made_by, split, cache(tmp_path))
    assert_equal(found.dataset, expected.dataset)
    assert found.gold == expected.gold
    assert sum(encoded_rows) == 2 * min(count, MAX_ROWS)


def test_rows_are_taken_by_their_numbers_in_any_order(tmp_path):
    given = rows("repeat", 9000, 0)
    split = written(tmp_path / "prepared", given)
    numbers = np.random.default_rng(1).permutation(9000)[:300]
    assert split.take(numbers) == [given[number] for number in numbers]
    assert list(split) == given == read_rows(tmp_path / "prepared", "train")
    assert len(split) == 9000


@pytest.mark.parametrize("content", [b"", b"no parquet"])
def test_rows_that_cannot_be_read_are_named(tmp_path, content):
    (tmp_path / "train.parquet").write_bytes(content)
    split = PreparedSplit(tmp_path / "train.parquet")
    for read in (lambda: len(split), lambda: list(split), lambda: split.take(np.arange(2))):
        with pytest.raises(ArtifactError, match=r"train\.parquet: cannot be read .* prepare runs again"):
            read()


def test_gradients_and_every_training_of_a_model_read_one_file(tmp_path, encoded_rows):
    suite = TrainingSuite(tmp_path, train=40, others=10)
    assert suite.run_here(suite.order("base", base_parameters())) is None
    work = suite.root / "work"
    gradients = GradientsParameters(task=TASKS["kind"], rows=16, max_length=48, seed=5)
    baseline, mixture = (train_parameters(kind, tuple(TASKS), max_steps=2) for kind in ("baseline", "mixture"))
    del encoded_rows[:]
    assert suite.run_here(suite.order("gradients/kind", gradients, work=str(work / "gradients-1"))) is None
    assert encoded_rows == [40]
    assert (
        suite.run_here(
            suite.order(
                "baseline/kind",
                baseline.model_copy(update={"tasks": (KIND,), "probabilities": {"kind": 1.0}}),
                work=str(work / "baseline-1"),
            )
        )
        is None
    )
    assert encoded_rows == [40, 10]
    assert suite.run_here(suite.order("mixture/all", mixture, work=str(work / "mixture-1"))) is None
    assert encoded_rows == [40, 10, 40, 10]
    assert [path.name for path in work.iterdir()] == ["rows"], "beside it, work folders of stages that have ended"
    assert {path.name for path in (work / "rows").iterdir()} == {f"prepare__{name}-{'0' * 12}" for name in TASKS}
