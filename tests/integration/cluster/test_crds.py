"""The CRDs as users meet them: defaults, apply, status, names, sizes, and where Python asks for more."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from devcluster.cluster_client import ClusterClient
from multitask_api.resource.parsing import check, parse
from support.cluster import admission, resources
from support.cluster.schemas import ABSENT, edit

Object = dict[str, Any]
EXAMPLES = sorted(Path(__file__).parents[3].glob("examples/*/model.yaml"))
TASK = "spec.tasks[0]"


def test_defaults_are_those_of_the_types(rest: httpx.Client) -> None:
    document = resources.model()
    answer = admission.create(rest, document)
    assert answer.is_success, answer.text
    assert answer.json()["spec"] == without_empty(check(document).spec.to_json())


def without_empty(value: Any) -> Any:
    """Without lists and free-form objects that are empty: the types have them, and the schema leaves them out."""
    if isinstance(value, dict):
        return {key: without_empty(item) for key, item in value.items() if item not in ([], {})}
    if isinstance(value, list):
        return [without_empty(item) for item in value]
    return value


@pytest.mark.parametrize("field", ["spec.serving", "spec.stages", "spec.suspend", f"{TASK}.group", "spec.pretraining"])
def test_null_means_not_given(rest: httpx.Client, field: str) -> None:
    given, absent = (admission.create(rest, edit(resources.model(), change)) for change in ({field: None}, {}))
    assert given.is_success, given.text
    assert given.json()["spec"] == absent.json()["spec"]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.parent.name)
def test_an_example_is_accepted_once_it_says_where_its_results_go(rest: httpx.Client, path: Path) -> None:
    parse(path.read_text("utf-8"))
    document = yaml.safe_load(path.read_text("utf-8"))
    document["spec"].setdefault("storage", {"uri": "pvc://models/example"})
    assert admission.causes(admission.create(rest, document)) == []


ACCEPTED = [
    ("a path without a scheme", {f"{TASK}.data.train.uri": "data/a b/train.jsonl"}),
    ("a path in which :// stands", {f"{TASK}.data.train.uri": "data/a://b"}),
    ("a scheme in capitals", {f"{TASK}.data.train.uri": "S3://bucket/train.jsonl"}),
    ("a hub data set, one file of one revision", {f"{TASK}.data.train.uri": "hf://datasets/org/name@v1/train.jsonl"}),
    ("a claim without a path", {f"{TASK}.data.train.uri": "pvc://data"}),
    ("a field in another script", {f"{TASK}.prompt": "{文本}\n回答："}),
    ("braces in the text", {f"{TASK}.prompt": '{{"text": "{text}"}}'}),
    ("a field next to braces", {f"{TASK}.prompt": "{{{text}}}{{}}"}),
    ("a prompt by reference", {f"{TASK}.prompt": ABSENT, f"{TASK}.promptFrom": {"name": "prompts", "key": "a"}}),
    ("a label of the greatest length, counted in characters", {f"{TASK}.labels": ["é" * 256, "no"]}),
    ("labels with space inside", {f"{TASK}.labels": ["very good", "good"]}),
    ("two labels that are ordinal", {f"{TASK}.taxonomy": "Ordinal"}),
    ("a number that is whole", {"spec.stages": {"mixture": {"temperature": 2}}}),
    ("one step of a rollout", {"spec.serving": {"rollout": {"steps": [100]}}}),
]
REFUSED = [
    ("an address with a scheme and nothing else", {f"{TASK}.data.train.uri": "s3:///"}),
    ("a claim in capitals", {f"{TASK}.data.train.uri": "PVC://data"}),
    ("a built-in base in capitals", {"spec.baseModel.uri": "Builtin://tiny"}),
    ("a hub address without an organisation", {f"{TASK}.data.train.uri": "hf:///name"}),
    ("an empty field", {f"{TASK}.prompt": "{}"}),
    ("a field with a space", {f"{TASK}.prompt": "{the text}"}),
    ("a brace too many", {f"{TASK}.prompt": "{{text}"}),
    ("a label that is a space", {f"{TASK}.labels": ["yes", "\u00a0"]}),
]
#: What CEL cannot say within its budget of cost: sentence, changes, what Python says of it.
PYTHON_ONLY = [
    ("a prompt that shows the answer", {f"{TASK}.prompt": "{text} {label}"},
     (f"{TASK}.prompt", "contains the answer, {label}; use only fields that a request has")),
    ("a generation prompt that shows the reference",
     {f"{TASK}.type": "Generation", f"{TASK}.labels": ABSENT, f"{TASK}.prompt": "{text} {target}"},
     (f"{TASK}.prompt", "contains the answer, {target}; use only fields that a request has")),
]  # fmt: skip


@pytest.mark.parametrize("changes", [row[1] for row in ACCEPTED], ids=[row[0] for row in ACCEPTED])
def test_both_accept(rest: httpx.Client, changes: Object) -> None:
    document = edit(resources.model(), changes)
    assert admission.python_problems(document) == []
    assert admission.causes(admission.create(rest, document)) == []


@pytest.mark.parametrize("changes", [row[1] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_both_refuse(rest: httpx.Client, changes: Object) -> None:
    document = edit(resources.model(), changes)
    assert admission.python_problems(document)
    assert admission.causes(admission.create(rest, document))


@pytest.mark.parametrize(("changes", "problem"), [row[1:] for row in PYTHON_ONLY], ids=[row[0] for row in PYTHON_ONLY])
def test_only_python_refuses(rest: httpx.Client, changes: Object, problem: tuple[str, str]) -> None:
    document = edit(resources.model(), changes)
    assert admission.python_problems(document) == [problem]
    assert admission.causes(admission.create(rest, document)) == []


DOUBLES = [
    ("tasks", resources.model(tasks=[resources.task("a"), resources.task("a")]), "spec.tasks[1]", '{"name":"a"}'),
    ("labels", resources.model(tasks=[resources.task("a", labels=["x", "x"])]), "spec.tasks[0].labels[1]", '"x"'),
    ("routed tasks", edit(resources.route(), {"spec.tasks": resources.route()["spec"]["tasks"] * 2}), "spec.tasks[1]",
     '{"name":"urgent"}'),
]  # fmt: skip


@pytest.mark.parametrize(("document", "field", "value"), [row[1:] for row in DOUBLES], ids=[row[0] for row in DOUBLES])
def test_doubles_are_refused(rest: httpx.Client, document: Object, field: str, value: str) -> None:
    assert admission.causes(admission.create(rest, document)) == [(field, f"Duplicate value: {value}")]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"spec.tasks[0].lables": ["a", "b"]}, "spec.tasks[0].lables"),
        ({"spec.trainig": {}}, "spec.trainig"),
        ({"spec.stages": {"mixture": {"steps": 4}}}, "spec.stages.mixture.steps"),
    ],
)
def test_kubectl_refuses_fields_that_do_not_exist(cluster: ClusterClient, changes: Object, field: str) -> None:
    document = edit(resources.model(), changes)
    done = cluster.kubectl("apply", "--dry-run=server", "--filename", "-", stdin=document, check=False)
    assert done.exit_code != 0
    assert f'strict decoding error: unknown field "{field}"' in done.stderr


def test_pod_templates_are_kept_as_they_are(rest: httpx.Client) -> None:
    template = {"spec": {"nodeSelector": {"pool": "gpu"}, "containers": [{"name": "trainer", "env": []}]}}
    answer = admission.create(rest, edit(resources.model(), {"spec.training": {"podTemplate": template}}))
    assert answer.json()["spec"]["training"]["podTemplate"] == template


def test_applied_twice_nothing_changes(cluster: ClusterClient, namespace: str) -> None:
    document = resources.full_model() | {"metadata": {"name": "full", "namespace": namespace}}
    document.pop("status")
    versions = []
    for _ in range(2):
        cluster.kubectl("apply", "--server-side", "--filename", "-", stdin=document)
        versions.append(cluster.get("mtm", "full", "--namespace", namespace)["metadata"]["resourceVersion"])
    assert versions[0] == versions[1]


def test_the_greatest_model_is_accepted(cluster: ClusterClient, namespace: str) -> None:
    """128 tasks of 256 labels each: within the size of a request and the cost that rules may have."""
    tasks = [
        resources.task(f"task-{number}", labels=[f"label {number:03} {label:03}" for label in range(256)])
        for number in range(128)
    ]
    document = resources.model("greatest", tasks)
    document["metadata"]["namespace"] = namespace
    for training in ({}, {"seed": 5}):  # created, and changed
        document["spec"]["training"] = training
        cluster.kubectl("apply", "--server-side", "--filename", "-", stdin=document)
    stored = cluster.get("mtm", "greatest", "--namespace", namespace)
    assert [len(task["labels"]) for task in stored["spec"]["tasks"]] == [256] * 128
    assert len(json.dumps(document)) > 500_000


def test_status_is_written_apart(rest: httpx.Client, namespace: str) -> None:
    document = resources.model() | {"status": resources.full_status()}
    created = admission.create(rest, document, namespace, dry=False).json()
    assert "status" not in created

    path = f"{admission.BASE}/{namespace}/multitaskmodels/desk"
    change = {"spec": {"suspend": True}, "status": resources.full_status()}
    merge = {"Content-Type": "application/merge-patch+json"}
    written = rest.patch(f"{path}/status", json=change, headers=merge).json()
    assert written["status"] == resources.full_status()
    assert (written["spec"], written["metadata"]["generation"]) == (created["spec"], 1)

    edited = rest.patch(path, json={"spec": {"suspend": True}, "status": {"stage": "none"}}, headers=merge).json()
    assert (edited["status"], edited["metadata"]["generation"]) == (resources.full_status(), 2)


def test_what_kubectl_get_shows(cluster: ClusterClient, rest: httpx.Client, namespace: str) -> None:
    admission.create(rest, resources.model(), namespace, dry=False)
    admission.create(rest, resources.route(), namespace, dry=False)
    path = f"{admission.BASE}/{namespace}/multitaskmodels/desk/status"
    merge = {"Content-Type": "application/merge-patch+json"}
    rest.patch(path, json={"status": resources.full_status()}, headers=merge)

    head, row = cluster.kubectl("get", "mtm", "--namespace", namespace).stdout.splitlines()
    assert head.split() == ["NAME", "STAGE", "PROGRESS", "QUALIFIED", "TRAINED", "SERVED", "READY", "AGE"]
    assert row.split()[:-1] == ["desk", "baseline", "3/9", "1/2", "0123abcd", "0123abcd", "False"]
    both = cluster.kubectl("get", "multitask", "--namespace", namespace, "--output", "name").stdout.split()
    assert sorted(both) == ["multitaskmodel.multitask.dev/desk", "taskroute.multitask.dev/desk"]
