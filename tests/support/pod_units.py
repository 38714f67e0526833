"""Units of a stage pod: prepare orders of small tasks, the folder that the pod reads, and what it has reported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from multitask_api.cluster import ORDERS_KEY
from multitask_api.resource.tasks import DataSource, TaskData
from multitask_api.stage_io.manifest import Manifest, StageOrder
from multitask_api.stage_io.packing import manifest_key, unpack_manifest
from multitask_api.stage_io.parameters import PrepareParameters, TaskDefinition
from multitask_api.stages.versions import VERSIONS
from support.data_builders import GOOD
from support.fake_api_server import ApiServer


def task(name: str) -> TaskDefinition:
    return TaskDefinition(
        name=name, type="Classification", labels=("low", "high"), prompt="{text}\nUrgency:", metric="Accuracy"
    )


def data(folder: Path, rows: list[dict[str, str]]) -> TaskData:
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "validation", "test"):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return TaskData.model_validate(
        {split: DataSource(uri=str(folder / f"{split}.jsonl")) for split in ("train", "validation", "test")}
    )


def prepare(root: Path, name: str, rows: list[dict[str, str]] = GOOD, **changes: Any) -> StageOrder:
    parameters = PrepareParameters(task=task(name), data=data(root / "data" / name, rows), fingerprints={})
    settings: dict[str, Any] = {
        "model": "desk",
        "stage": f"prepare/{name}",
        "kind": "prepare",
        "digest": f"d-{name}",
        "version": VERSIONS["prepare"],
        "parameters": parameters.to_json(),
        "read_outputs": {},
        "inputs": {},
        "output": str(root / "storage" / "stages" / "prepare" / name / f"d-{name}"),
        "work": str(root / "storage" / "work" / f"prepare__{name}"),
    }
    return StageOrder.model_validate(settings | changes)


def orders(folder: Path, *stage_orders: StageOrder) -> Path:
    content = {"orders": [json.loads(order.model_dump_json(by_alias=True)) for order in stage_orders]}
    return unit(folder, ORDERS_KEY, json.dumps(content))


def unit(folder: Path, key: str, text: str) -> Path:
    """A folder as the mounted ConfigMap of a unit: one file, ``key``."""
    mounted = folder / "unit"
    mounted.mkdir(exist_ok=True)
    (mounted / key).write_text(text)
    return mounted


def manifest(server: ApiServer, name: str) -> Manifest:
    return unpack_manifest(server.binary[manifest_key(f"d-{name}")])
