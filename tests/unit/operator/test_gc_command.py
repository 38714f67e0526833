"""`mtm gc NAME`: what it prints, when it goes on waiting, and how it ends without a result."""

from __future__ import annotations

from typing import Any

import pytest

from multitask_api.cluster import (
    GC,
    GC_ANNOTATION,
    GC_ANSWER_KEY,
    GC_KEY,
    GC_RESULT_KEY,
    KIND_LABEL,
    GarbageAnswer,
    GarbageResult,
    UnusedResult,
)
from multitask_operator import cli
from multitask_operator.commands.cluster.gc import (
    CollectionFailed,
    NotCollected,
    job_of_order,
    lines,
    result_if_ended,
)
from multitask_operator.objects.names import Owner, gc_name
from multitask_operator.reconciler.state.cluster_state import ClusterState

ORDER = "remove 2026-11-28T05:00:00Z"
OWNER = Owner("ml", "desk", "u-desk")


def found(*results: tuple[str, int], **more: Any) -> GarbageResult:
    listed = tuple(UnusedResult(name=name, bytes=size) for name, size in results)
    given = {"dry_run": False, "count": len(listed), "files": 3 * len(listed), "left": 0}
    return GarbageResult(results=listed, bytes=sum(size for _, size in results), **{**given, **more})


TWO = (("baseline/urgency/seed-17/d1", 2_000_000), ("filter/d2", 300))
PRINTED = [
    ("nothing", found(), ["nothing to remove"]),
    (
        "removed",
        found(*TWO),
        [
            "removed stages/baseline/urgency/seed-17/d1 (2.0 MB)",
            "removed stages/filter/d2 (300 B)",
            "2.0 MB freed",
        ],
    ),
    (
        "a dry run",
        found(("filter/d2", 300), dry_run=True),
        ["would remove stages/filter/d2 (300 B)", "300 B would be freed"],
    ),
    ("more than are listed", found(("filter/d2", 300), count=7), ["removed 6 smaller results"]),
    ("checkpoints only", found(files=2), ["0 B freed"]),
    ("files of others", found(left=4), ["nothing to remove; 4 files there are of others and stay"]),
]


@pytest.mark.parametrize(("result", "expected"), [row[1:] for row in PRINTED], ids=[row[0] for row in PRINTED])
def test_what_is_printed(result, expected):
    assert set(expected) <= set(lines(result))


def cluster(order: str | None = ORDER, **data: Any) -> ClusterState:
    """A model with that order, and the ConfigMap of `ORDER` with ``data``; without data there is none."""
    metadata = {"name": "desk", "namespace": "ml", "uid": "u-desk"}
    annotations = {} if order is None else {GC_ANNOTATION: order}
    name = gc_name(OWNER, ORDER)
    configmap = {"metadata": {"name": name, "uid": "u-1", "labels": {KIND_LABEL: GC}}, "data": data}
    model = {"metadata": metadata | {"annotations": annotations}}
    return ClusterState("ml", "desk", model, configmaps=(configmap,) if data else ())


def answered(phase: str, message: str) -> dict[str, str]:
    return {GC_ANSWER_KEY: GarbageAnswer(phase=phase, message=message).model_dump_json(by_alias=True)}


def ended(state: ClusterState) -> GarbageResult | None:
    return result_if_ended(state, job_of_order(state, ORDER), ORDER)


def test_it_waits_until_there_is_an_answer():
    assert ended(cluster()) is None
    assert ended(cluster(**{GC_KEY: "{}"})) is None


def test_what_the_pod_reported_is_the_result_also_before_the_operator_has_seen_it():
    reported = {GC_RESULT_KEY: found(*TWO).model_dump_json(by_alias=True)}
    assert ended(cluster(**reported)) == found(*TWO)
    assert ended(cluster(**reported, **answered("Done", "2 results"))) == found(*TWO)


ENDS = [
    (cluster(**answered("Refused", "Its Jobs are at work: a.")), NotCollected, "nothing more is removed: Its Jobs"),
    (cluster(**answered("Failed", "s3 did not answer")), CollectionFailed, "s3 did not answer; `mtm logs desk gc`"),
    (cluster(None), NotCollected, "the order was withdrawn"),
    (cluster("list 2026-11-28T05:00:09Z"), NotCollected, "another order came: list 2026-11-28T05:00:09Z"),
]


@pytest.mark.parametrize(("state", "error", "words"), ENDS)
def test_without_a_result_it_says_why(state, error, words):
    with pytest.raises(error, match=words):
        ended(state)


#: Arguments → the error.
ERRORS = [
    (["gc", "desk", "-n", "ml", "--forget", "desk"], "--forget applies only to a work folder on this machine"),
    (["gc", "desk"], "there is no folder 'desk', and no cluster that could have a MultiTaskModel 'desk'"),
    (["gc", "desk/"], "desk does not exist"),
]


@pytest.mark.parametrize(("arguments", "words"), ERRORS)
def test_a_name_is_of_a_cluster_and_a_path_of_this_machine(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert cli.invoke(arguments) == 2
    assert words in capsys.readouterr().err


def test_a_folder_of_that_name_is_the_folder(tmp_path, monkeypatch, capsys):
    (tmp_path / "desk").mkdir()
    monkeypatch.chdir(tmp_path)
    assert cli.invoke(["gc", "desk", "--dry-run"]) == 2
    assert "desk is not a work folder of mtm" in capsys.readouterr().err
