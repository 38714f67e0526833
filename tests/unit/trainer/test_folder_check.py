"""What is said of a base in a folder before anything is loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

from multitask_trainer.base_model.folder_check import base_problem
from multitask_trainer.data.fingerprints import HashCache
from multitask_trainer.data.locations import DataLocations
from multitask_trainer.jobs.data_check import check_data
from multitask_trainer.stages.resolve import resolve
from support.data_builders import write_base
from support.graph_builders import model

Change = Callable[[Path], object]


def write(name: str, content: bytes) -> Change:
    return lambda folder: (folder / name).write_bytes(content)


def remove(*names: str) -> Change:
    return lambda folder: [(folder / name).unlink() for name in names]


def cut(name: str, size: int) -> Change:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


def index(*names: str) -> Change:
    """Weights in parts, of which the first is there."""

    def change(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / names[0])
        weights = {"weight_map": {f"layer{number}": name for number, name in enumerate(names)}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(weights))

    return change


def only_gguf(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()
    write_gguf(folder)


def write_gguf(folder: Path) -> None:
    writer = gguf.GGUFWriter(folder / "tiny-F32.gguf", "llama")
    writer.add_tensor("weight", np.zeros(64, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


SIZE = "compare its size with the original's"
FAULTS: dict[str, tuple[Change, str | None]] = {
    "whole": (lambda folder: None, None),
    "whole, in parts": (index("a.safetensors"), None),
    "whole, with older weights that are not read": (write("pytorch_model.bin", b"version https://git-lfs"), None),
    "no weights": (
        remove("model.safetensors"),
        "there are no weights beside config.json; give the folder that has the model's safetensors files too",
    ),
    "a part is missing": (
        index("a.safetensors", "b.safetensors"),
        "b.safetensors is missing, which model.safetensors.index.json names; copy all files of the model",
    ),
    "weights are cut": (
        cut("model.safetensors", 80),
        f"model.safetensors is cut short or damaged (80 bytes); copy it again, and {SIZE}",
    ),
    "weights are something else": (
        write("model.safetensors", b"<html>not found</html>"),
        f"model.safetensors is cut short or damaged (22 bytes); copy it again, and {SIZE}",
    ),
    "weights are a pointer": (
        write("model.safetensors", b"version https://git-lfs.github.com/spec/v1\n"),
        "model.safetensors is a Git LFS pointer, and not the weights; run git lfs pull where it was cloned",
    ),
    "no tokenizer": (
        remove("tokenizer.json"),
        (
            "there is no tokenizer in this folder; add the tokenizer.json that"
            " AutoTokenizer.from_pretrained(…).save_pretrained(…) writes"
        ),
    ),
    "settings are no JSON": (
        cut("config.json", 1),
        (
            "its config.json is not JSON (Expecting property name enclosed in double quotes: line 1 column 2 (char 1));"
            " give a transformers folder"
        ),
    ),
    "GGUF alone": (only_gguf, "there is no config.json, but a model in GGUF; add ggufFile: tiny-F32.gguf"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_folder_that_is_not_whole_is_a_problem_of_plan_and_validate(tmp_path: Path, name: str) -> None:
    change, message = FAULTS[name]
    change(write_base(tmp_path / "base"))
    spec, locations = model(baseModel={"uri": "base"}).spec, DataLocations(tmp_path, {})
    expected = [] if message is None else [f"spec.baseModel.uri: base: {message}"]
    resolved = resolve(spec, locations, HashCache(None)).problems
    assert [problem for problem in resolved if "baseModel" in problem] == expected
    checked = [f"{problem.path}: {problem.message}" for problem in check_data(spec, locations).problems]
    assert [problem for problem in checked if "baseModel" in problem] == expected


@pytest.mark.parametrize(
    ("file", "field", "message"),
    [
        ("tiny-F32.gguf", "", ""),
        (
            "cut.gguf",
            "ggufFile",
            f"is cut short or damaged: what it announces is not in its 70 bytes; copy it again, and {SIZE}",
        ),
        ("other.gguf", "ggufFile", "is not in the GGUF format; give the name of a GGUF file"),
        ("absent.gguf", "uri", "there is no absent.gguf; its GGUF files are cut.gguf, other.gguf, tiny-F32.gguf"),
    ],
)
def test_of_a_gguf_base_only_its_file_is_looked_at(tmp_path: Path, file: str, field: str, message: str) -> None:
    write_gguf(tmp_path)
    write("other.gguf", b"PK")(tmp_path)
    shutil.copy(tmp_path / "tiny-F32.gguf", tmp_path / "cut.gguf")
    cut("cut.gguf", 70)(tmp_path)
    spec = model(baseModel={"uri": f"file://{tmp_path}", "ggufFile": file}).spec
    problem = base_problem(spec.base_model, DataLocations())
    assert (str(problem) if problem else "") == (message and f"spec.baseModel.{field}: file://{tmp_path}: {message}")


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("Qwen/Qwen2.5-0.5B", "no such folder ({here}/Qwen/Qwen2.5-0.5B); for a model of the hub write hf://{uri}"),
        ("bases/chta", "no such folder ({here}/bases/chta); did you mean chat?"),
        ("bases/chat/config.json", "a file; give the folder that holds it"),
    ],
)
def test_an_address_without_a_folder_is_answered_with_what_was_meant(tmp_path: Path, uri: str, message: str) -> None:
    write_base(tmp_path / "bases/chat")
    problem = base_problem(model(baseModel={"uri": uri}).spec.base_model, DataLocations(tmp_path, {}))
    assert str(problem) == f"spec.baseModel.uri: {uri}: {message.format(here=tmp_path, uri=uri)}"
