"""The model repository that Triton loads."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import TYPE_FP32, TYPE_STRING, ModelConfig

from multitask_serving.triton.repository import ModelSettings, write_repository


def parsed(folder: Path) -> ModelConfig:
    return text_format.Parse((folder / "multitask" / "config.pbtxt").read_text(), ModelConfig())


def test_the_configuration_has_the_designed_settings(tmp_path: Path) -> None:
    settings = ModelSettings(max_batch_size=16, max_queue_size=99, queue_timeout_s=2.5, device="cuda", threads=3)
    config = parsed(write_repository("../../bundle", tmp_path, settings))
    assert (config.name, config.backend, config.max_batch_size) == ("multitask", "python", 16)
    assert config.model_transaction_policy.decoupled
    assert [(one.name, one.data_type, list(one.dims), one.optional) for one in config.input] == [
        ("task", TYPE_STRING, [1], False),
        ("fields", TYPE_STRING, [1], False),
        ("options", TYPE_STRING, [1], True),
    ]
    assert [(one.name, one.data_type, list(one.dims)) for one in config.output] == [
        ("text", TYPE_STRING, [1]),
        ("labels", TYPE_STRING, [-1]),
        ("scores", TYPE_FP32, [-1]),
        ("finish_reason", TYPE_STRING, [1]),
        ("revision", TYPE_STRING, [1]),
    ]
    # A request that arrives while the batcher's model executes can wait for its timer of 500 ms.
    assert config.WhichOneof("scheduling_choice") is None
    assert {key: value.string_value for key, value in config.parameters.items()} == {
        "bundle": "../../bundle",
        "device": "cuda",
        "max_waiting": "99",
        "queue_timeout_s": "2.5",
        "threads": "3",
    }
    assert [group.count for group in config.instance_group] == [1]


def test_writing_again_replaces_the_old_settings(tmp_path: Path) -> None:
    write_repository("/a", tmp_path, ModelSettings(threads=1))
    config = parsed(write_repository("/b", tmp_path))
    assert config.parameters["bundle"].string_value == "/b"
    assert "threads" not in config.parameters


def test_model_py_imports_the_backend_and_nothing_else_of_ours(tmp_path: Path) -> None:
    text = (write_repository("/a", tmp_path) / "multitask" / "1" / "model.py").read_text()
    assert [line for line in text.splitlines() if line.startswith(("import", "from"))] == [
        "import os",
        "import sys",
        "from multitask_serving.triton.backend import TritonPythonModel",
    ]


@pytest.mark.parametrize("path", ['/with "quotes"/b', "/ünï/包"])
def test_any_path_survives(tmp_path: Path, path: str) -> None:
    assert parsed(write_repository(path, tmp_path)).parameters["bundle"].string_value == path
