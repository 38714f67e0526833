"""The local copy of a kind's objects: whichever source is later wins, and nothing goes back in time."""

from __future__ import annotations

import pytest

from multitask_kubernetes.errors import NotFound
from multitask_kubernetes.store import Store
from multitask_operator.cluster.cache import Cache
from multitask_operator.objects.names import selector

LABELS = {"app.kubernetes.io/managed-by": "multitask-operator", "multitask.dev/model": "desk"}


def item(name="job", version=1, uid="1", kind="Job", api_version="batch/v1", labels=LABELS, **fields):
    metadata = {"namespace": "team", "name": name, "uid": uid, "resourceVersion": str(version), "labels": labels}
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **fields}


def listed(store, version, *items):
    return [each["metadata"]["name"] for each in store.replace(dict(store.packed(each) for each in items), version)]


def learned(version, *items):
    return lambda store: store.learn("team", "desk", items, version)


def put(*items):
    return lambda store: [store.put(each) for each in items]


def dropped(each):
    return lambda store: store.drop(each)


def relisted(version, *items):
    return lambda store: listed(store, version, *items)


# what happens, one after the other → (name, uid, version) of what is there in the end
HISTORIES = {
    "a watch shows a change": ([put(item(version=1)), put(item(version=2))], [("job", "1", 2)]),
    "a watch that lags behind an own write takes nothing back": (
        [put(item(version=5)), put(item(version=3)), put(item(version=4))],
        [("job", "1", 5)],
    ),
    "a deletion": ([put(item(version=1)), dropped(item(version=2))], []),
    "a deletion of what was created again since is old": (
        [put(item(version=1)), put(item(version=9, uid="2")), dropped(item(version=3))],
        [("job", "2", 9)],
    ),
    "what a live read no longer has is not brought back by older events": (
        [put(item(version=1)), learned("8"), put(item(version=4)), put(item(version=5))],
        [],
    ),
    "another object of the name is not the one that is gone": (
        [put(item(version=1)), learned("8"), put(item(version=9, uid="2")), dropped(item(version=7))],
        [("job", "2", 9)],
    ),
    "a live read that is older than an event takes nothing away": (
        [put(item(version=9)), learned("8")],
        [("job", "1", 9)],
    ),
    "a live read knows more": (
        [put(item(version=1)), learned("8", item(version=6), item("next", version=7, uid="2"))],
        [("job", "1", 6), ("next", "2", 7)],
    ),
    "a live read is about one model": (
        [put(item("other", version=1, labels={**LABELS, "multitask.dev/model": "other"})), learned("8")],
        [("other", "1", 1)],
    ),
    "a new list takes away what was deleted while nobody watched": (
        [put(item(version=1)), relisted("8", item("next", version=2, uid="2"))],
        [("next", "2", 2)],
    ),
    "a new list that is older than an own write takes nothing back": (
        [put(item(version=9)), relisted("8")],
        [("job", "1", 9)],
    ),
    "a list that was asked for before a live read brings nothing back": (
        [put(item(version=1)), learned("8"), relisted("7", item(version=1))],
        [],
    ),
}


@pytest.mark.parametrize("sentence", HISTORIES)
def test_the_later_source_wins(sentence):
    steps, expected = HISTORIES[sentence]
    store = Store()
    for step in steps:
        step(store)
    there = [each["metadata"] for each in store.of_namespace("team")]
    assert [(each["name"], each["uid"], int(each["resourceVersion"])) for each in there] == expected
    for name, _, _ in expected:
        assert store.get("team", name) in store.of_group("team", LABELS["multitask.dev/model"]) + store.of_group(
            "team", "other"
        )


def test_a_list_says_what_differs():
    store = Store()
    assert listed(store, "3", item("a", 1), item("b", 2, uid="2")) == ["a", "b"]
    assert listed(store, "9", item("a", 1), item("c", 8, uid="3")) == ["b", "c"]


def test_each_look_gets_its_own_object_without_the_record_of_who_set_what():
    store = Store()
    body = item(spec={"labels": ["é"]})
    body["metadata"]["managedFields"] = [{"manager": "kubectl"}]
    store.put(body)
    one, other = store.get("team", "job"), store.get("team", "job")
    one["spec"]["labels"].append("changed")
    assert other == item(spec={"labels": ["é"]})


def test_a_big_configmap_takes_a_fraction_of_its_size():
    store = Store()
    _, entry = store.packed(
        item(kind="ConfigMap", api_version="v1", data={"orders.json": '{"uri": "s3://b/x"}' * 9000})
    )
    assert len(entry.packed) < 9000 * 19 / 20


async def test_a_cache_answers_as_a_client_does():
    cache = Cache(())
    cache.saw(item())
    cache.saw(item("theirs", labels={"multitask.dev/model": "desk"}))  # somebody else's
    (job,) = await cache.list("batch/v1", "Job", "team", selector("desk"))
    assert job["metadata"]["name"] == "job"
    assert await cache.list("batch/v1", "Job", "team", selector("other")) == ()
    with pytest.raises(NotFound, match=r'^get jobs.batch "theirs" in namespace "team"'):
        await cache.get("batch/v1", "Job", "theirs", "team")


async def test_of_a_claim_only_what_decides_is_kept():
    cache = Cache(())
    claim = item(
        "models", kind="PersistentVolumeClaim", api_version="v1", labels={"big": "x"}, spec={"volumeName": "v"}
    )
    claim["spec"]["accessModes"], claim["status"] = ["ReadWriteMany"], {"phase": "Bound", "capacity": {}}
    cache.saw(claim)
    kept = await cache.get("v1", "PersistentVolumeClaim", "models", "team")
    assert (kept["spec"], kept["status"]) == ({"accessModes": ["ReadWriteMany"]}, {"phase": "Bound"})
    assert "labels" not in kept["metadata"]


async def test_a_list_of_one_namespace_takes_nothing_from_another():
    cache = Cache(("team", "other"))
    cache.saw(item("desk", kind="MultiTaskModel", api_version="multitask.dev/v1alpha1"))
    for reflector in cache._reflectors:
        if reflector.source.namespace == "other":
            assert list(reflector._store.replace({}, "99")) == []
    assert await cache.get("multitask.dev/v1alpha1", "MultiTaskModel", "desk", "team")
    with pytest.raises(NotFound):
        await cache.get("multitask.dev/v1alpha1", "MultiTaskModel", "desk", "nobodys")
