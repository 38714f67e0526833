"""The number of weights and the shape of a base that has not been loaded."""

from __future__ import annotations

import struct

import pytest
import torch
from safetensors.torch import save_file

from multitask_trainer.base_model.builtin import SIZES, make_model, make_tokenizer
from multitask_trainer.base_model.model_shape import model_shape, shape_of
from multitask_trainer.base_model.parameter_count import parameter_count
from multitask_trainer.data.locations import DataLocations
from support.training_fixtures import small_decoder

NOWHERE = DataLocations.of(".", {})


def test_a_builtin_size_counts_what_its_model_has():
    size = SIZES["micro"]
    tokenizer = make_tokenizer([f"ticket {number}: my parcel is late" for number in range(500)], size.vocabulary)
    model = make_model(size, tokenizer, seed=1)
    rows = model.get_input_embeddings().weight.shape[0]
    unused = (size.vocabulary - rows) * size.width  # little text makes a smaller vocabulary
    assert parameter_count("builtin://micro", None, NOWHERE) == model.num_parameters() + unused


def test_a_folder_counts_what_its_files_say(tmp_path):
    save_file({"a": torch.zeros(3, 4), "b": torch.zeros(5)}, tmp_path / "model-1.safetensors", {"format": "pt"})
    save_file({"c": torch.zeros(2, 2, dtype=torch.bfloat16)}, tmp_path / "model-2.safetensors")
    assert parameter_count(f"file://{tmp_path}", None, NOWHERE) == 12 + 5 + 4


def test_the_shape_of_a_folder_is_that_of_its_model(tmp_path):
    model = small_decoder()
    model.config.save_pretrained(tmp_path)
    shape = model_shape(f"file://{tmp_path}", None, NOWHERE)
    assert shape is not None
    assert shape == shape_of(model)
    assert shape.parameters == model.num_parameters()


def test_the_shape_of_a_builtin_size_has_as_many_weights_as_are_counted():
    shape = model_shape("builtin://micro", None, NOWHERE)
    assert shape is not None
    assert shape.parameters == parameter_count("builtin://micro", None, NOWHERE)


def test_the_shape_of_a_model_of_the_hub_is_read_from_its_configuration(tmp_path, monkeypatch):
    small_decoder().config.save_pretrained(tmp_path)
    asked = []

    def download(*arguments, **options):
        asked.append((*arguments, options["revision"]))
        return str(tmp_path / "config.json")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert model_shape("hf://org/base", "abc", NOWHERE) == shape_of(small_decoder())
    assert asked == [("org/base", "config.json", "abc")]


@pytest.mark.parametrize(
    ("uri", "content"),
    [
        ("builtin://giant", None),
        ("file://{tmp}", None),
        ("file://{tmp}", "{"),
        ("file://{tmp}", "[]"),
        ("s3://bucket/model", None),
    ],
)
def test_a_shape_that_cannot_be_read_is_unknown(tmp_path, uri, content):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    assert model_shape(uri.replace("{tmp}", str(tmp_path)), None, NOWHERE) is None


UNKNOWN = [
    ("a size that does not exist", "builtin://giant", None),
    ("a folder without safetensors", "file://{tmp}", None),
    ("a file cut short", "file://{tmp}", b"\x01\x02"),
    ("a header that is too long", "file://{tmp}", struct.pack("<Q", 1 << 60)),
    ("a header that is not JSON", "file://{tmp}", struct.pack("<Q", 4) + b"{{{{"),
    ("a bucket", "s3://bucket/model", None),
]


@pytest.mark.parametrize(("sentence", "uri", "content"), UNKNOWN, ids=[row[0] for row in UNKNOWN])
def test_what_cannot_be_read_is_unknown(tmp_path, sentence, uri, content):
    if content is not None:
        (tmp_path / "model.safetensors").write_bytes(content)
    assert parameter_count(uri.replace("{tmp}", str(tmp_path)), None, NOWHERE) is None
