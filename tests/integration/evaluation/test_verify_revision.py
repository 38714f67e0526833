"""The program that verifies a revision: real Triton, real gateway, and the ConfigMap that it reports to."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from multitask_api.cluster import CONFIGMAP_VARIABLE, EXIT_DONE, EXIT_RETRYABLE, EXIT_USER_ERROR, FAILURE_KEY
from multitask_api.routes import TaskRoute
from multitask_api.serving_io.verify import VERIFIED_KEY, VERIFY_KEY, Flip, RevisionReport, VerifyOrder
from multitask_api.stage_io.manifest import MANIFEST, StageFailure
from multitask_serving.gateway.server import running_gateway
from multitask_serving.triton.server import TritonServer
from multitask_trainer.evaluation.scoring import Answer, read_scores, write_scores
from multitask_trainer.storage.artifacts import read_manifest
from multitask_trainer.storage.files import file_entries, write_atomically
from multitask_trainer.verify_revision import main
from support.evaluation_fixtures import INTENT, TEXTS, exported_suite
from support.fake_api_server import NAME, ApiServer, running
from support.pod_units import unit

NEW, OLD = "0e1f0e1f", "01d001d0"
MODEL = "team-a/desk"


@dataclass
class Served:
    """Storage with an exported result, and a gateway that sends two revisions to the one server of it."""

    storage: Path
    gateway: str

    def order(self, **changes: Any) -> dict[str, Any]:
        tasks = [{"name": name, "metric": "Accuracy", "sameContract": True} for name in ("intent", "urgency")]
        order = {
            "model": MODEL,
            "revision": NEW,
            "storage": str(self.storage),
            "artifact": "export",
            "gateway": self.gateway,
            "tasks": tasks,
        }
        return order | changes


def table(export: Path, port: int) -> str:
    """The exported routes, as the operator would write them: the old revision has the traffic, the new one none."""
    route = yaml.safe_load((export / "routes.yaml").read_text())
    namespace, _, model = MODEL.partition("/")
    route["spec"] |= {"namespace": namespace, "model": model}
    for task in route["spec"]["tasks"]:
        at = {"service": "127.0.0.1", "port": port}
        task["backends"] = [at | {"weight": 100, "revision": OLD}, at | {"weight": 0, "revision": NEW}]
    return yaml.safe_dump(TaskRoute.model_validate(route).to_json())


@contextmanager
def gateway_thread(routes: Path) -> Iterator[str]:
    """The address of a gateway that runs in a thread of its own, as the program has an event loop of its own."""
    import threading

    started, stop, addresses, loops = threading.Event(), asyncio.Event(), [], []

    async def serve() -> None:
        async with running_gateway(routes, "127.0.0.1:0") as gateway:
            addresses.append(f"127.0.0.1:{gateway.port}")
            loops.append(asyncio.get_running_loop())
            started.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert started.wait(60)
    try:
        yield addresses[0]
    finally:
        loops[0].call_soon_threadsafe(stop.set)
        thread.join(60)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("suite")
    suite = exported_suite(root, "Full")
    export = Path(suite.addresses["export"])
    with TritonServer.start(export / "triton", root / "triton") as triton:
        routes = root / "routes.yaml"
        routes.write_text(table(export, triton.port))
        with gateway_thread(routes) as address:
            yield Served(export.parent, address)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    monkeypatch.setenv(CONFIGMAP_VARIABLE, NAME)
    with running(ApiServer()) as server:
        yield server


def run(tmp_path: Path, server: ApiServer, order: dict[str, Any]) -> int:
    mounted = unit(tmp_path, VERIFY_KEY, VerifyOrder.model_validate(order).model_dump_json(by_alias=True))
    return main([f"--orders={mounted}", f"--server={server.url}", f"--account={tmp_path}"])


def reported(server: ApiServer) -> RevisionReport:
    return RevisionReport.model_validate_json(server.data[VERIFIED_KEY])


def changed_export(served: Served, name: str, change: Callable[[int, Answer], Answer], keep: int | None = None) -> str:
    """Another exported result, whose evaluation answered ``intent`` otherwise, and its artifact's name."""
    target = served.storage / name
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(served.storage / "export", target)
    answers = read_scores(target / "answers" / "intent.parquet")
    changed = [change(row, answer) for row, answer in enumerate(answers)][:keep]
    write_scores(target / "answers" / "intent.parquet", changed)
    golden = [json.loads(line) for line in (target / "golden.jsonl").read_text().splitlines()]
    own = iter(changed)
    for row in golden:
        if row["task"] == "intent" and (answer := next(own, None)) is not None:
            row["label"] = answer.prediction
    (target / "golden.jsonl").write_text("".join(json.dumps(row) + "\n" for row in golden))
    manifest = read_manifest(str(served.storage / "export"))
    assert manifest is not None
    (target / MANIFEST).unlink()
    manifest = manifest.model_copy(update={"files": file_entries(target)})
    write_atomically(target / MANIFEST, manifest.model_dump_json(by_alias=True))
    return name


def other(label: str, gold: str) -> str:
    """A third label."""
    return next(each for each in INTENT.labels if each not in (label, gold))


@pytest.mark.parametrize("rows", [200, 7])
def test_a_revision_that_is_served_as_it_was_measured_is_verified_by_its_pin(tmp_path, served, server, rows):
    assert run(tmp_path, server, served.order(rows=rows)) == EXIT_DONE
    report = reported(server)
    assert (report.revision, report.previous, report.flips) == (NEW, "", {})
    assert set(report.result.tasks) == {"intent", "urgency"}
    assert report.result.compared == 2 * min(len(TEXTS), len(range(0, len(TEXTS), -(-len(TEXTS) // rows))))
    assert report.result.different == 0
    assert FAILURE_KEY not in server.data


def test_answers_that_are_not_those_of_the_evaluation_are_counted_and_named_by_row(tmp_path, served, server):
    def change(row: int, answer: Answer) -> Answer:
        if row in (2, 5):
            return replace(
                answer, prediction=other(answer.prediction, answer.gold[0]), margin=0.5 if row == 2 else 1e-5
            )
        return answer

    order = served.order(artifact=changed_export(served, "wrong", change))
    assert run(tmp_path, server, order) == EXIT_DONE
    result = reported(server).result
    assert (result.tasks["intent"].different, result.tasks["intent"].near_ties) == (1, 1)
    assert result.tasks["urgency"].different == 0
    assert [(each["task"], each["row"], each["margin"]) for each in result.examples] == [
        ("intent", "2", "0.5"),
        ("intent", "5", "1e-05"),
    ]


def previous_answers(row: int, answer: Answer) -> Answer:
    """Of the rows 0 to 2 one changes from right to wrong, one the other way, and one among wrong labels."""
    gold, now = answer.gold[0], answer.prediction
    if row < 3:
        return replace(answer, prediction=gold if now != gold else other(now, gold))
    return answer


def expected_flips(served: Served) -> tuple[int, int, int]:
    answers = read_scores(served.storage / "export" / "answers" / "intent.parquet")[:3]
    was_wrong = sum(answer.prediction == answer.gold[0] for answer in answers)  # is right now
    return 3 - was_wrong, was_wrong, 0


def test_changes_against_the_previous_revision_are_counted_from_both_evaluations(tmp_path, served, server):
    order = served.order(previous={"revision": OLD, "artifact": changed_export(served, "before", previous_answers)})
    order["tasks"][0]["sameRows"] = True
    order["tasks"][1]["sameContract"] = False
    assert run(tmp_path, server, order) == EXIT_DONE
    report = reported(server)
    flips = report.flips["intent"]
    assert (flips.compared, flips.basis) == (len(TEXTS), "TestRows")
    assert (flips.right_to_wrong, flips.wrong_to_right, flips.wrong_to_wrong) == expected_flips(served)
    assert sorted(flip.row for flip in flips.nearest) == [0, 1, 2]
    answers = read_scores(served.storage / "export" / "answers" / "intent.parquet")
    nearest: Flip = flips.nearest[0]
    assert (nearest.after, nearest.margin) == (answers[nearest.row].prediction, answers[nearest.row].margin)
    assert report.previous == OLD
    assert report.not_compared == {"urgency": "its type, labels or fields are not those of the previous revision"}
    assert report.result.different == 0


NOT_STORED: list[tuple[str, Callable[[Served], str], bool]] = [
    # what is known of the previous revision, its artifact, whether the order says that the rows are the same
    ("other test rows", lambda served: "export", False),
    ("another number of test rows", lambda served: changed_export(served, "few", lambda _, answer: answer, 5), True),
    ("its result is gone", lambda _: "deleted", True),
]


@pytest.mark.parametrize(
    ("artifact", "same_rows"), [case[1:] for case in NOT_STORED], ids=[case[0] for case in NOT_STORED]
)
def test_where_evaluations_cannot_be_compared_the_previous_revision_is_asked(
    tmp_path, served, server, artifact, same_rows
):
    order = served.order(previous={"revision": OLD, "artifact": artifact(served)})
    order["tasks"] = [order["tasks"][0] | {"sameRows": same_rows}]
    assert run(tmp_path, server, order) == EXIT_DONE
    flips = reported(server).flips["intent"]
    assert (flips.basis, flips.compared, flips.changed) == ("GoldenRows", len(TEXTS), 0)


def test_a_previous_revision_that_nobody_serves_is_not_compared_and_does_not_matter(tmp_path, served, server):
    order = served.order(previous={"revision": "deadbeef", "artifact": "deleted"})
    order["tasks"] = [order["tasks"][0] | {"sameRows": True}]
    assert run(tmp_path, server, order) == EXIT_DONE
    reason = reported(server).not_compared["intent"]
    assert "no longer in storage" in reason
    assert "revision 'deadbeef' does not serve task" in reason
    assert reported(server).result.different == 0


FAILURES: list[tuple[str, dict[str, Any], int, str]] = [
    # what is wrong, of the order, the exit status, what is said
    ("a revision that gateways do not know", {"revision": "deadbeef"}, EXIT_RETRYABLE, "'deadbeef' does not serve"),
    ("a model that gateways do not know", {"model": "team-b/desk"}, EXIT_RETRYABLE, "no task 'team-b/desk/intent'"),
    ("a result that is gone", {"artifact": "deleted"}, EXIT_USER_ERROR, "is no longer in storage"),
    ("a token that is not mounted", {"tokenFile": "/nowhere/token"}, EXIT_USER_ERROR, "has no token for the gateway"),
    ("a task that was not routed", {"tasks": [{"name": "reply", "metric": "RougeL"}]}, 2, "it was not routed"),
]


@pytest.mark.parametrize(
    ("changes", "status", "message"), [case[1:] for case in FAILURES], ids=[case[0] for case in FAILURES]
)
def test_what_cannot_be_verified_says_why(tmp_path, served, server, changes, status, message):
    assert run(tmp_path, server, served.order(**changes)) == status
    failure = StageFailure.model_validate(
        {k: v for k, v in json.loads(server.data[FAILURE_KEY]).items() if k != "digest"}
    )
    assert failure.stage == "verify-revision"
    assert message in failure.message
    assert VERIFIED_KEY not in server.data


def test_an_order_of_another_release_is_not_read(tmp_path, server):
    mounted = unit(tmp_path, VERIFY_KEY, "{}")
    assert main([f"--orders={mounted}", f"--server={server.url}", f"--account={tmp_path}"]) == EXIT_USER_ERROR
    assert "verify.json cannot be read by this image" in server.data[FAILURE_KEY]
    assert os.environ[CONFIGMAP_VARIABLE] == NAME
