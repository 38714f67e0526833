"""Claims, their mounts, and storage as a pod sees it."""

from __future__ import annotations

import json

import pytest

from multitask_operator.objects import volumes
from support.graph_builders import task
from support.object_samples import resource


def on_claims(storage="pvc://models/desk", data="pvc://data/rows", base="pvc://bases/small", corpus="pvc://chats/all"):
    entry = task("urgency")
    entry["data"] = {split: {"uri": f"{data}/{split}.jsonl"} for split in ("train", "validation", "test")}
    pretraining = {"corpus": [{"uri": corpus}], "maxSteps": 10}
    return resource(entry, storage=storage, baseModel={"uri": base}, pretraining=pretraining).spec


CLAIMS = [
    ("all of them", None, ("bases", "chats", "data", "models")),
    ("resolve looks at everything", "resolve", ("bases", "chats", "data", "models")),
    ("prepare reads data", "prepare", ("data", "models")),
    ("the base reads base and corpus", "base", ("bases", "chats", "models")),
    ("training reads storage alone", "mixture", ("models",)),
    ("a clean-up too", "clean-up", ("models",)),
]


@pytest.mark.parametrize(("sentence", "kind", "expected"), CLAIMS, ids=[row[0] for row in CLAIMS])
def test_which_claims_a_pod_mounts(sentence, kind, expected):
    spec = on_claims()
    assert volumes.mounted_pvc_names(spec, kind) == expected
    if kind is not None:
        names = [f"claim-{claim}" for claim in expected]
        assert [mount["name"] for mount in volumes.volume_mounts(spec, kind)] == names
        assert [volume["name"] for volume in volumes.pod_volumes(spec, kind)] == names
        assert json.loads(volumes.mounts_variable(spec, kind)) == {
            claim: f"/multitask/claims/{claim}" for claim in expected
        }


def test_only_storage_is_written_to():
    mounts = volumes.volume_mounts(on_claims(), "prepare")
    assert mounts == [
        {"name": "claim-data", "mountPath": "/multitask/claims/data", "readOnly": True},
        {"name": "claim-models", "mountPath": "/multitask/claims/models"},
    ]
    assert volumes.pod_volumes(on_claims(), "mixture") == [
        {"name": "claim-models", "persistentVolumeClaim": {"claimName": "models"}}
    ]


def test_one_claim_for_everything_is_mounted_once():
    spec = on_claims(data="pvc://models/data", base="builtin://tiny", corpus="pvc://models/chats.jsonl")
    assert volumes.volume_mounts(spec, "resolve") == [{"name": "claim-models", "mountPath": "/multitask/claims/models"}]


def test_without_claims_there_are_no_volumes():
    spec = on_claims(storage="s3://bucket/desk", data="s3://bucket/rows", base="hf://a/b", corpus="s3://bucket/c.jsonl")
    assert (volumes.mounted_pvc_names(spec), volumes.mounts_variable(spec, "resolve")) == ((), "{}")


@pytest.mark.parametrize("claim", ["data.v2", "d" * 63, "d" * 253])
def test_a_volume_is_a_dns_label_whatever_its_claim_is_called(claim):
    name = volumes.volume_name(claim)
    assert len(name) <= 63
    assert "." not in name


STORAGE = [
    ("pvc://models/desk", "/multitask/claims/models/desk", "/multitask/claims/models/desk/work/x"),
    ("pvc://models/a/b/", "/multitask/claims/models/a/b", "/multitask/claims/models/a/b/work/x"),
    ("pvc://models", "/multitask/claims/models", "/multitask/claims/models/work/x"),
    ("s3://bucket/desk/", "s3://bucket/desk", "/multitask/work/work/x"),
    ("gs://bucket/desk", "gs://bucket/desk", "/multitask/work/work/x"),
    ("file:///mnt/desk", "/mnt/desk", "/mnt/desk/work/x"),
]


@pytest.mark.parametrize(("uri", "address", "work"), STORAGE)
def test_storage_as_a_pod_sees_it(uri, address, work):
    spec = resource(storage=uri).spec
    assert (volumes.storage_location(spec), volumes.work_folder(spec, "x")) == (address, work)


PROBLEMS = [
    ("all on claims", on_claims(), []),
    (
        "storage that is a path",
        on_claims(storage="desk"),
        ["spec.storage.uri: 'desk' is a path of one machine; give pvc"],
    ),
    (
        "storage that leaves its claim",
        on_claims(storage="pvc://models/../x"),
        ["spec.storage.uri: 'pvc://models/../x' leaves its claim"],
    ),
    ("a base that is a path", on_claims(base="bases/small"), ["spec.baseModel.uri: 'bases/small' is a path of one"]),
    (
        "a corpus that is one",
        on_claims(corpus="c.jsonl"),
        ["spec.pretraining.corpus[0].uri: 'c.jsonl' is a path of one"],
    ),
    ("a path in a pod", on_claims(data="file:///mnt/rows"), []),
    (
        "data that is a path",
        on_claims(data="rows"),
        [f"spec.tasks[0].data.{split}.uri: 'rows/{split}.jsonl' is a" for split in ("train", "validation", "test")],
    ),
]


@pytest.mark.parametrize(("sentence", "spec", "expected"), PROBLEMS, ids=[row[0] for row in PROBLEMS])
def test_uris_that_mean_nothing_in_a_pod_are_named(sentence, spec, expected):
    problems = [str(problem) for problem in volumes.uri_problems(spec)]
    assert len(problems) == len(expected)
    for text, beginning in zip(problems, expected, strict=True):
        assert text.startswith(beginning)


def test_a_cluster_needs_storage():
    spec = on_claims().model_copy(update={"storage": None})
    (problem,) = volumes.uri_problems(spec)
    assert str(problem) == "spec.storage: a cluster needs it; give uri: pvc://CLAIM/PATH or s3://BUCKET/PATH"
