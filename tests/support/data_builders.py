"""Tasks and files for the tests of the data modules."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from multitask_api.resource.sources import DataSource
from multitask_api.resource.tasks import TaskData
from multitask_api.stage_io.parameters import TaskDefinition

GOOD = [{"text": "broken again", "label": "high"}, {"text": "thank you", "label": "low"}]


def lines(rows: Iterable[Any]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def write(folder: Path, name: str, content: bytes | Iterable[Any]) -> str:
    data = content if isinstance(content, bytes) else lines(content)
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data, mtime=0) if name.endswith(".gz") else data)
    return name


def write_base(folder: Path, config: str = "{}") -> Path:
    """The files of a base in the transformers format, whose values are of no model."""
    for name, content in (("config.json", config), ("tokenizer.json", "{}")):
        write(folder, name, content.encode())
    save_file({"weight": np.zeros(4, np.float32)}, folder / "model.safetensors")
    return folder


def task(**changes: Any) -> TaskDefinition:
    values = {
        "name": "urgency",
        "type": "Classification",
        "labels": ("low", "high"),
        "prompt": "{text}\nUrgency:",
        "metric": "Accuracy",
    }
    return TaskDefinition.model_validate(values | changes)


def generation(**changes: Any) -> TaskDefinition:
    return task(type="Generation", labels=(), metric="RougeL", **changes)


def data(folder: Path, train: Any = GOOD, validation: Any = GOOD, test: Any = GOOD, **changes: Any) -> TaskData:
    """The three splits written as jsonl; a string is taken as an address of its own."""
    sources = {}
    for split, content in (("train", train), ("validation", validation), ("test", test)):
        address = content if isinstance(content, str) else write(folder, f"{split}.jsonl", content)
        sources[split] = DataSource(uri=address)
    return TaskData.model_validate(sources | changes)
