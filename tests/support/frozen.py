"""The frozen samples of ``tests/fixtures/frozen``: what an older commit left in a work folder and in a cluster."""

from __future__ import annotations

import copy
import re
import tarfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from multitask_operator.settings import Settings
from support.simulation import Cluster

FOLDER = Path(__file__).parents[1] / "fixtures" / "frozen"
NAMESPACE, MODEL = "ml", "desk"
IMAGE, NEWER_IMAGE = "example.test/trainer:1", "example.test/trainer:2"
"""What the older operator was installed with, and what the present one is."""

_MANIFEST = re.compile(r"^(\w+)\.manifest\.gz$")
_TIME = re.compile(r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


def unpack_workdir(folder: Path) -> Path:
    """``model.yaml``, ``data/`` and the work folders ``interrupted/`` and ``finished/``, in ``folder``."""
    with tarfile.open(FOLDER / "workdir.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


def frozen_objects(moment: str, age: float = 5.0) -> list[dict[str, Any]]:
    """The objects of ``cluster-<moment>.yaml``, all their times moved so that the newest is ``age`` seconds old."""
    text = (FOLDER / f"cluster-{moment}.yaml").read_text()
    newest = max(_parsed(stamp) for stamp in _TIME.findall(text))
    shift = timedelta(seconds=int(time.time() - age - newest.timestamp()))
    moved = _TIME.sub(lambda match: f"{_parsed(match[0]) + shift:%Y-%m-%dT%H:%M:%SZ}", text)
    return list(yaml.load_all(moved, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))


def recorded_manifests() -> dict[str, str]:
    """Key in a ConfigMap → the packed manifest that the older pods reported, of every stage of the model."""
    manifests: dict[str, str] = {}
    for item in frozen_objects("trained"):
        manifests |= {key: value for key, value in item.get("binaryData", {}).items() if _MANIFEST.match(key)}
    return manifests


def by_name(objects: list[dict[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
    """Those of one Kubernetes kind."""
    return {item["metadata"]["name"]: item for item in objects if item["kind"] == kind}


def status_of(objects: list[dict[str, Any]]) -> dict[str, Any]:
    """The model's status, see `comparable`."""
    (model,) = by_name(objects, "MultiTaskModel").values()
    return comparable(model["status"])


def comparable(status: dict[str, Any]) -> dict[str, Any]:
    """A status without times and messages: messages may be worded anew."""
    rest = copy.deepcopy(status)
    rest.pop("progressTime", None)
    conditions = rest.pop("conditions")
    rest["conditions"] = {item["type"]: (item["status"], item["reason"]) for item in conditions}
    return rest


def contains(newer: Any, older: Any) -> bool:
    """Whether everything that ``older`` says stands in ``newer`` too, which may say more."""
    if isinstance(older, dict):
        return isinstance(newer, dict) and all(key in newer and contains(newer[key], older[key]) for key in older)
    if isinstance(older, list):
        return (
            isinstance(newer, list)
            and len(newer) == len(older)
            and all(contains(*pair) for pair in zip(newer, older, strict=True))
        )
    return bool(newer == older)


class FrozenCluster(Cluster):
    """The simulated cluster as the older operator left it; its pods report what the older pods did."""

    def __init__(self, moment: str) -> None:
        super().__init__(settings=Settings(trainer_image=NEWER_IMAGE))
        objects = frozen_objects(moment)
        self.now = time.time()
        self.objects = {}
        for item in objects:
            if item["kind"] == "MultiTaskModel":
                self.model = item
            elif item["kind"] == "PersistentVolumeClaim":
                self.claims = {item["metadata"]["name"]: item}
            else:
                self.objects[item["kind"], item["metadata"]["name"]] = item
        self.manifests = recorded_manifests()
        self._changed()

    def finish(self, name: str) -> None:
        """The Job ends well: its pod has reported everything."""
        configmap = self.objects["ConfigMap", name]
        if "orders.json" not in configmap["data"]:
            super().finish(name)
            return
        digests = configmap["metadata"]["annotations"]["multitask.dev/digest"].split(",")
        reported = {f"{digest}.manifest.gz": self.manifests[f"{digest}.manifest.gz"] for digest in digests}
        configmap.setdefault("binaryData", {}).update(reported)
        self.end(name, "Complete")


def _parsed(stamp: str) -> datetime:
    return datetime.strptime(stamp, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
