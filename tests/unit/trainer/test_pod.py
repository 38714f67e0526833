"""The stage pod's program against a ConfigMap: orders that succeed, fail, are done already; and resolve."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from multitask_api.cluster import (
    CONFIGMAP_LIMIT,
    EXIT_USER_ERROR,
    FAILURE_KEY,
    MANIFESTS_KEY,
    ORDERS_KEY,
    RESOLVE_KEY,
    RESOLVED_KEY,
)
from multitask_api.stage_io.manifest import Manifest, Resolved
from multitask_api.stage_io.packing import manifest_key, unpack_manifests, without_files
from multitask_trainer.errors import Unreported
from multitask_trainer.pod.configmap import ConfigMap, connect
from multitask_trainer.pod.unit import run_unit
from multitask_trainer.runtime.distributed import DistributedContext
from support.fake_api_server import NAME, ApiServer, running
from support.pod_units import manifest, orders, prepare, unit

BAD = [{"text": "broken again", "label": "hihg"}]


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with running(ApiServer()) as running_server:
        yield running_server


def run(unit_folder: Path, server: ApiServer) -> int:
    with connect({}, server.url) as client:
        return run_unit(unit_folder, ConfigMap(NAME, client, sleep=lambda _: None), DistributedContext())


def test_the_orders_of_a_unit_are_carried_out_and_their_manifests_without_files(tmp_path, server):
    assert run(orders(tmp_path, prepare(tmp_path, "a"), prepare(tmp_path, "b")), server) == 0
    for name in ("a", "b"):
        written = Manifest.model_validate_json(
            (tmp_path / f"storage/stages/prepare/{name}/d-{name}/manifest.json").read_text()
        )
        assert without_files(manifest(server, name)) == without_files(written)
    assert json.loads(server.data["progress.json"])["stage"] == "prepare/b"
    assert list((tmp_path / "storage/work").iterdir()) == []


def test_a_result_that_is_there_is_reported_and_not_made_again(tmp_path, server):
    unit_folder = orders(tmp_path, prepare(tmp_path, "a"))
    assert run(unit_folder, server) == 0
    before = dict(server.binary)
    server.binary.clear()
    (tmp_path / "data/a/train.jsonl").unlink()
    assert run(unit_folder, server) == 0
    assert server.binary == before


def test_a_result_with_a_file_missing_is_made_again(tmp_path, server):
    unit_folder = orders(tmp_path, prepare(tmp_path, "a"))
    assert run(unit_folder, server) == 0
    artifact = tmp_path / "storage/stages/prepare/a/d-a"
    gone = artifact / next(iter(Manifest.model_validate_json((artifact / "manifest.json").read_text()).files))
    gone.unlink()
    assert run(unit_folder, server) == 0
    assert gone.exists()


def test_a_user_error_of_one_order_is_final_and_the_others_still_run(tmp_path, server):
    unit_orders = (prepare(tmp_path, "a", BAD), prepare(tmp_path, "b"), prepare(tmp_path, "c", BAD))
    assert run(orders(tmp_path, *unit_orders), server) == 2
    failure = json.loads(server.data[FAILURE_KEY])
    assert (failure["stage"], failure["digest"], failure["kind"]) == ("prepare/a", "d-a", "UserError")
    assert "hihg" in failure["message"]
    assert "prepare/c: " in failure["message"]
    assert list(server.binary) == [manifest_key("d-b")]


def test_another_attempt_begins_without_the_last_ones_failure(tmp_path, server):
    assert run(orders(tmp_path, prepare(tmp_path, "a", BAD)), server) == 2
    assert run(orders(tmp_path, prepare(tmp_path, "a")), server) == 0
    assert FAILURE_KEY not in server.data


FOREIGN = [
    # what the order says, exit status, kind of failure, what it says
    ({"version": 9}, 2, "UserError", "the operator asks for version 9 of stage kind 'prepare', and this image has"),
    ({"kind": "polish"}, 2, "UserError", "of stage kind 'polish', and this image has None: use operator and trainer"),
    ({"parameters": {}}, 2, "UserError", "the parameters are not valid PrepareParameters of this version"),
    ({"output": "/proc/none/out"}, 1, "Fault", "FileNotFoundError"),
]


@pytest.mark.parametrize(("changes", "status", "kind", "message"), FOREIGN)
def test_an_order_that_cannot_be_carried_out_says_why(tmp_path, server, changes, status, kind, message):
    assert run(orders(tmp_path, prepare(tmp_path, "a", **changes)), server) == status
    failure = json.loads(server.data[FAILURE_KEY])
    assert failure["kind"] == kind
    assert message in failure["message"]


UNREADABLE = [
    (ORDERS_KEY, '{"orders": [{"model": "desk"}]}', "orders.json cannot be read by this image"),
    (ORDERS_KEY, "{", "orders.json cannot be read by this image"),
    (RESOLVE_KEY, '{"model": {}}', "resolve.json cannot be read by this image"),
    ("other.json", "{}", "the unit's ConfigMap has no orders for this image"),
]


@pytest.mark.parametrize(("key", "text", "message"), UNREADABLE)
def test_a_configmap_without_readable_orders_is_a_final_failure(tmp_path, server, key, text, message):
    assert run(unit(tmp_path, key, text), server) == 2
    assert message in json.loads(server.data[FAILURE_KEY])["message"]


def test_a_result_that_cannot_be_reported_may_be_reported_later(tmp_path, server, capsys):
    unit_folder = orders(tmp_path, prepare(tmp_path, "a"))

    class Refuses(ApiServer):
        def answer(self, path, headers, body):
            if b"binaryData" in body:
                return 422, {}, {"message": "too large"}
            return super().answer(path, headers, body)

    with running(Refuses()) as refusing:
        assert run(unit_folder, refusing) == 75
    assert "422 too large" in capsys.readouterr().err
    assert run(unit_folder, server) == 0
    assert manifest(server, "a").stage == "prepare/a"


def test_without_access_nothing_begins(tmp_path, server):
    server.refusals = [(404, {})]
    with pytest.raises(Unreported):
        run(orders(tmp_path, prepare(tmp_path, "a")), server)
    assert not (tmp_path / "storage").exists()


def model(root: Path) -> dict[str, Any]:
    splits = {split: {"uri": str(root / f"data/a/{split}.jsonl")} for split in ("train", "validation", "test")}
    own = {"name": "a", "type": "Classification", "labels": ["low", "high"], "prompt": "{text}\nUrgency:"}
    return {
        "apiVersion": "multitask.dev/v1alpha1",
        "kind": "MultiTaskModel",
        "metadata": {"name": "desk"},
        "spec": {"baseModel": {"uri": "builtin://micro"}, "tasks": [{**own, "data": splits}]},
    }


def resolve(
    root: Path, server: ApiServer, storage: str, document: dict[str, Any] | None = None
) -> tuple[int, Resolved, list[tuple[str, str]]]:
    unit_folder = unit(root, RESOLVE_KEY, json.dumps({"model": document or model(root), "storage": storage}))
    status = run(unit_folder, server)
    manifests = unpack_manifests(server.binary[MANIFESTS_KEY])
    return (
        status,
        Resolved.model_validate_json(server.data[RESOLVED_KEY]),
        [(item.stage, item.digest) for item in manifests],
    )


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_resolve_reports_fingerprints_and_the_results_in_storage(tmp_path, server, scheme):
    mounted = orders(tmp_path, prepare(tmp_path, "a"), prepare(tmp_path, "b"), prepare(tmp_path, "c"))
    assert run(mounted, server) == 0
    stages = tmp_path / "storage/stages/prepare"
    next(path for path in (stages / "b/d-b").rglob("*.parquet")).write_bytes(b"")
    (stages / "c/d-c").rename(stages / "c/elsewhere")
    status, report, stored = resolve(tmp_path, server, f"{scheme}{tmp_path}/storage")
    assert (status, report.problems) == (0, ())
    assert all(item.fingerprint for item in report.data.values())
    assert stored == [("prepare/a", "d-a")]


def test_resolve_of_an_empty_storage_and_missing_data_names_the_data(tmp_path, server):
    status, report, stored = resolve(tmp_path, server, str(tmp_path / "storage"))
    assert (status, stored) == (0, [])
    assert len(report.problems) == 3
    assert "no such file or folder" in report.problems[0]


def large(root: Path) -> dict[str, Any]:
    """100 tasks, their prompts as long as may be."""
    document = model(root)
    (task,) = document["spec"]["tasks"]
    prompt = "{text}".ljust(8192, "x")
    document["spec"]["tasks"] = [{**task, "name": f"task-{number}", "prompt": prompt} for number in range(100)]
    for entry in document["spec"]["tasks"]:
        entry["data"] = {split: {"uri": str(root / f"{entry['name']}/{split}.jsonl")} for split in entry["data"]}
    return document


def test_of_many_problems_the_first_are_reported_and_the_others_counted(tmp_path, server):
    status, report, _ = resolve(tmp_path, server, str(tmp_path / "storage"), large(tmp_path))
    assert (status, len(report.problems), report.problems[-1]) == (0, 21, "and 280 more")
    assert len(report.data) == 300
    assert not any(item.problem for item in report.data.values())


def test_addresses_for_which_there_is_no_room_beside_the_resource_are_a_fault_of_the_resource(tmp_path, server):
    document = large(tmp_path)
    for task in document["spec"]["tasks"]:
        task["data"] = {split: {"uri": f"s3/{task['name']}/{split}/".ljust(1000, "x")} for split in task["data"]}
    unit_folder = unit(tmp_path, RESOLVE_KEY, json.dumps({"model": document, "storage": str(tmp_path / "storage")}))
    assert run(unit_folder, server) == EXIT_USER_ERROR
    failure = json.loads(server.data[FAILURE_KEY])
    assert (failure["stage"], failure["kind"]) == ("resolve", "UserError")
    assert failure["message"].startswith("spec.tasks: the fingerprints of 300 addresses have 3")
    assert "shorten addresses, prompts or labels" in failure["message"]


def test_what_resolve_reports_fits_beside_its_order(tmp_path, server):
    document, noise = large(tmp_path), random.Random(7)
    for number in range(300):
        manifest = Manifest(
            stage=f"prepare/{number}",
            kind="prepare",
            digest="d",
            version=1,
            read_outputs={},
            outputs={},
            files={},
            result={"noise": noise.randbytes(700).hex()},
            seconds=1.0,
        )
        unit_folder = tmp_path / f"storage/stages/prepare/{number}/d"
        unit_folder.mkdir(parents=True)
        (unit_folder / "manifest.json").write_text(manifest.model_dump_json(by_alias=True))
    _, _, stored = resolve(tmp_path, server, str(tmp_path / "storage"), document)
    order_bytes = (tmp_path / "unit" / RESOLVE_KEY).stat().st_size
    report_bytes = len(server.data[RESOLVED_KEY]) + len(base64.b64decode(server.binary[MANIFESTS_KEY]))
    assert 0.8 * CONFIGMAP_LIMIT < order_bytes + report_bytes <= CONFIGMAP_LIMIT
    assert 100 < len(stored) < 300
