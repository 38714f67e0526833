"""Which models a change concerns."""

from __future__ import annotations

import pytest

from multitask_operator.cluster.cache import CONFIGMAP, EVENT, METADATA, MODEL, PVC, TASK_ROUTE, Cache
from multitask_operator.watches import DEBOUNCE_SECONDS, SPREAD_SECONDS, Watches

JOB, POD = ("batch/v1", "Job"), ("v1", "Pod")


def item(kind, name, model="", **fields):
    labels = {"app.kubernetes.io/managed-by": "multitask-operator", "multitask.dev/model": model} if model else {}
    metadata = {"namespace": "team", "name": name, "uid": name, "resourceVersion": "1", "labels": labels}
    return {"apiVersion": kind[0], "kind": kind[1], "metadata": metadata, **fields}


def model(name, *claims):
    volumes = [{"persistentVolumeClaim": {"claimName": claim}} for claim in claims[1:]]
    storage = {"uri": f"pvc://{claims[0]}/desk" if claims else "s3://bucket/desk"}
    tasks = [{"name": "urgency", "labelsFrom": {"name": f"{name}-labels"}}]
    return item(
        MODEL,
        name,
        spec={"tasks": tasks, "storage": storage, "training": {"podTemplate": {"spec": {"volumes": volumes}}}},
    )


def warning(kind, name):
    return item(EVENT, f"{name}.1", involvedObject={"kind": kind, "name": name, "uid": name})


MODELS = [model("desk", "models", "scratch"), model("cloud"), model("shared", "models")]
CHANGES = {
    "a model, at once": (MODEL, MODELS[0], [("desk", 0.0)]),
    "a child of a model": (CONFIGMAP, item(CONFIGMAP, "desk-baseline", "desk"), [("desk", DEBOUNCE_SECONDS)]),
    "a claim that two models name": (
        PVC,
        item(PVC, "models"),
        [("desk", DEBOUNCE_SECONDS), ("shared", DEBOUNCE_SECONDS)],
    ),
    "a claim in a pod template": (PVC, item(PVC, "scratch"), [("desk", DEBOUNCE_SECONDS)]),
    "a claim that nobody names": (PVC, item(PVC, "theirs"), []),
    "a ConfigMap that a model takes labels from": (
        METADATA,
        item(METADATA, "desk-labels"),
        [("desk", DEBOUNCE_SECONDS)],
    ),
    "anybody's ConfigMap": (METADATA, item(METADATA, "theirs"), []),
    "a Warning about a pod of a model": (EVENT, warning("Pod", "desk-pod"), [("desk", DEBOUNCE_SECONDS)]),
    "a Warning about a Job of a model": (EVENT, warning("Job", "desk-job"), [("desk", DEBOUNCE_SECONDS)]),
    "a Warning about somebody's pod": (EVENT, warning("Pod", "nginx"), []),
    "a Warning about a node": (EVENT, warning("Node", "desk-pod"), []),
}


@pytest.mark.parametrize("sentence", CHANGES)
def test_a_change_concerns(sentence):
    kind, changed, expected = CHANGES[sentence]
    cache, queued = Cache(()), []
    watches = Watches(cache, lambda key, delay: queued.append((str(key).removeprefix("team/"), delay)))
    for each in MODELS:
        cache.saw(each)
        watches.changed(MODEL, each)
    for each in (item(POD, "desk-pod", "desk"), item(JOB, "desk-job", "desk")):
        cache.saw(each)
    queued.clear()
    watches.changed(kind, changed)
    assert queued == expected


def test_a_model_that_names_another_claim_is_not_concerned_by_the_first():
    cache, queued = Cache(()), []
    watches = Watches(cache, lambda key, _: queued.append(key.name))
    for version in (model("desk", "models"), model("desk", "others")):
        cache.saw(version)
        watches.changed(MODEL, version)
    queued.clear()
    watches.changed(PVC, item(PVC, "models"))
    assert queued == []
    watches.changed(PVC, item(PVC, "others"))
    assert queued == ["desk"]


@pytest.mark.parametrize("models", [0, 1, 3])
def test_a_gateway_that_is_gone_concerns_every_model_with_a_table_one_after_the_other(models):
    cache, queued = Cache(()), []
    watches = Watches(cache, lambda key, delay: queued.append((key.name, delay)))
    cache.saw(model("trains", "models"))
    for number in range(models):
        cache.saw(table(f"desk-{number}", "urgency"))
    watches.gateway_gone()
    assert queued == [(f"desk-{n}", DEBOUNCE_SECONDS + n * SPREAD_SECONDS) for n in range(models)]


# -- names of tasks ----------------------------------------------------------------------------------------------------


def table(name, *tasks, namespace="team", version="1"):
    found = item(TASK_ROUTE, name, name, spec={"tasks": [{"name": each} for each in tasks]})
    found["metadata"] |= {"namespace": namespace, "uid": f"{namespace}/{name}", "resourceVersion": version}
    return found


TABLES = [table("desk", "urgency", "intent"), table("inbox", "urgency"), table("desk", "intent", namespace="other")]
# the sentence, the table as it becomes, whether it is deleted, the models that this concerns
CONTENDED = [
    ("a table that goes gives its names back", table("desk", "urgency", "intent", version="2"), True,
     {"team/desk", "team/inbox", "other/desk"}),
    ("a task that goes gives its name back", table("desk", "intent", version="2"), False, {"team/desk", "team/inbox"}),
    ("a task that comes may take a name", table("inbox", "urgency", "intent", version="2"), False,
     {"team/inbox", "team/desk", "other/desk"}),
    ("weights are nobody else's business", table("desk", "urgency", "intent", version="2"), False, {"team/desk"}),
    ("a new table takes nothing", table("newest", "urgency"), False, {"team/newest"}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "is_deleted", "expected"), [row[1:] for row in CONTENDED], ids=[row[0] for row in CONTENDED]
)
def test_names_concern_those_who_want_them(changed, is_deleted, expected):
    cache, queued = Cache(()), []
    watches = Watches(cache, lambda key, _: queued.append(str(key)))
    for each in TABLES:
        cache.saw(each)
        watches.changed(TASK_ROUTE, each)
    queued.clear()
    if is_deleted:
        cache.saw_list(TASK_ROUTE, "team", "multitask.dev/model=desk", [], "2")
    else:
        cache.saw(changed)
    watches.changed(TASK_ROUTE, changed)
    assert set(queued) == expected


def test_the_cache_knows_who_wants_the_names_of_a_model():
    cache = Cache(())
    for each in (*TABLES, table("alone", "summary")):
        cache.saw(each)
    found = {(claim.namespace, claim.model): claim for claim in cache.name_claims("team", "inbox")}
    assert found.keys() == {("team", "desk"), ("team", "inbox")}
    assert (found["team", "desk"].tasks, found["team", "desk"].uid) == (("urgency", "intent"), "team/desk")
    assert {claim.model for claim in cache.name_claims("team", "alone")} == {"alone"}
    assert cache.name_claims("team", "none") == ()
