"""The present stage pod, with the orders that an older operator wrote into the ConfigMaps of its units.

Addresses are those of the test's folder, and training is short. Stages have the versions of the present image, because
it carries out no others; all else is as it was.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from multitask_api.stages.versions import VERSIONS
from support.fake_api_server import NAME, ApiServer, running
from support.frozen import by_name, frozen_objects, recorded_manifests

LABELS, SPLITS, TASKS = ("a", "b", "c"), ("train", "validation", "test"), ("urgency", "intent")
TRAINED, DELETING = frozen_objects("trained"), frozen_objects("deleting")
SECONDS = 300
#: The baselines' limits and device in the sample are those of a GPU.
SHORT = {"maxSteps": 4, "batchRows": 4, "evalEvery": 2, "minSteps": 2, "warmupSteps": 1, "precision": "fp32"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The folder that stands for the claims, the scratch and the bucket; with the data."""
    folder = tmp_path
    rows = "".join(json.dumps({"text": f"word {label}", "label": label}) + "\n" for label in LABELS * 4)
    for task in TASKS:
        (folder / "bucket" / task).mkdir(parents=True)
        for split in SPLITS:
            (folder / "bucket" / task / f"{split}.jsonl").write_text(rows)
    (folder / "claims/models/desk").mkdir(parents=True)
    return folder


def units(objects, kind):
    """Name and ConfigMap of the units of ``kind``."""
    configmaps = by_name(objects, "ConfigMap").items()
    return [(name, item) for name, item in configmaps if item["metadata"]["labels"]["multitask.dev/kind"] == kind]


def here(text: str, root: Path) -> str:
    """The text with the test's addresses; fingerprints are the resolved ones, once there are such."""
    known = root / "fingerprints.json"
    for address, fingerprint in json.loads(known.read_text()).items() if known.exists() else ():
        text = text.replace(json.dumps(f"f-{address}"), json.dumps(fingerprint))
    return text.replace("s3://bucket/", f"{root}/bucket/").replace("/multitask/", f"{root}/")


def carried_out(root: Path, objects, kind: str, change=str, *, status: int = 0) -> ApiServer:
    """Run what the container of the first Job of ``kind`` runs, with its environment; what it has reported."""
    name, configmap = units(objects, kind)[0]
    folder = root / "orders" / name
    folder.mkdir(parents=True, exist_ok=True)
    (key,) = {"orders.json", "resolve.json", "clean-up.json"} & set(configmap["data"])
    (folder / key).write_text(change(here(configmap["data"][key], root)))
    (container,) = by_name(objects, "Job")[name]["spec"]["template"]["spec"]["containers"]
    own = {item["name"]: here(item["value"], root) for item in container["env"]}
    program, *arguments = container["command"]
    assert program == "python"
    with running(ApiServer()) as server:
        done = subprocess.run(
            [sys.executable, *arguments, "--orders", str(folder), "--server", server.url, "--account", str(root)],
            env=os.environ | own | {"MULTITASK_CONFIGMAP": NAME},
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    assert done.returncode == status, done.stdout + done.stderr
    return server


def today(text: str) -> str:
    """Orders with the stage versions of the present image."""
    orders = json.loads(text)["orders"]
    return json.dumps({"orders": [order | {"version": VERSIONS[order["kind"]]} for order in orders]})


def short(text: str) -> str:
    """The same, with a few steps on the CPU."""
    (order,) = json.loads(today(text))["orders"]
    for part in (order["parameters"], order["parameters"]["optimisation"]):
        part |= {key: value for key, value in SHORT.items() if key in part}
    return json.dumps({"orders": [order | {"device": "cpu"}]})


def manifests(server: ApiServer) -> dict[str, str]:
    """Key → the stage whose manifest was reported under it."""
    return {key: unpacked(packed)["stage"] for key, packed in server.binary.items()}


def unpacked(packed: str):
    return json.loads(gzip.decompress(base64.b64decode(packed)))


def test_resolve_prepare_base_baseline_and_clean_up_are_carried_out(root):
    resolved = json.loads(carried_out(root, TRAINED, "resolve").data["resolved.json"])
    assert resolved["problems"] == []
    assert len(resolved["data"]) == len(TASKS) * len(SPLITS)
    there = {address.replace(f"{root}/bucket/", "s3://bucket/"): item for address, item in resolved["data"].items()}
    (root / "fingerprints.json").write_text(
        json.dumps({address: item["fingerprint"] for address, item in there.items()})
    )

    for kind, change in (("prepare", today), ("base", short), ("baseline", short)):
        server = carried_out(root, TRAINED, kind, change)
        annotations = units(TRAINED, kind)[0][1]["metadata"]["annotations"]
        digests, stages = (annotations[f"multitask.dev/{name}"].split(",") for name in ("digest", "stage"))
        assert manifests(server) == {
            f"{digest}.manifest.gz": stage for digest, stage in zip(digests, stages, strict=True)
        }
        assert json.loads(server.data["progress.json"])["stage"] in stages

    cleaned = json.loads(carried_out(root, DELETING, "clean-up").data["cleaned.json"])
    assert (cleaned["results"], cleaned["left"]) == (4, 0), "two prepared tasks, the base, a baseline"
    assert not any((root / "claims/models/desk/stages").rglob("*.json"))


def test_an_order_of_another_release_is_not_carried_out(root):
    failure = json.loads(carried_out(root, TRAINED, "prepare", status=2).data["failure.json"])
    assert "use operator and trainer images of one release" in failure["message"]


def test_a_result_that_an_older_pod_left_is_reported_and_not_made_again(root):
    _, configmap = units(TRAINED, "export")[0]
    (order,) = json.loads(here(configmap["data"]["orders.json"], root))["orders"]
    key = f"{order['digest']}.manifest.gz"
    older = unpacked(recorded_manifests()[key])
    Path(order["output"]).mkdir(parents=True)
    (Path(order["output"]) / "manifest.json").write_text(json.dumps(older | {"files": {}}))
    newer = unpacked(carried_out(root, TRAINED, "export").binary[key])
    assert {name: newer.get(name) for name in older} == older
