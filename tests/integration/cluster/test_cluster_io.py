"""The operator's reads and writes against a real API server."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest

from devcluster import objects
from devcluster.cluster_client import ClusterClient
from devcluster.control_plane import ControlPlane
from multitask_api.cluster import FINALIZER
from multitask_kubernetes import client as client_module
from multitask_kubernetes.client import Client
from multitask_kubernetes.connection import connect
from multitask_kubernetes.errors import (
    AlreadyExists,
    Conflict,
    ConnectionConfigError,
    Forbidden,
    NotFound,
    RequestRejected,
    Unavailable,
)
from multitask_operator.cluster.apply import Applied, apply
from multitask_operator.cluster.observe import observe
from multitask_operator.reconciler.actions import Apply, Create, Delete, Event, PatchFinalizers, PatchStatus
from multitask_operator.reconciler.state.cluster_state import ClusterState
from support.cluster import resources

#: Long before anything was made: no Job is late.
NOW = 0.0
MODEL = ("multitask.dev/v1alpha1", "MultiTaskModel")
LABELS = {"app.kubernetes.io/managed-by": "multitask-operator", "multitask.dev/model": "desk"}


@pytest.fixture
async def client(cluster: ClusterClient) -> AsyncIterator[Client]:
    async with Client(await connect(cluster.admin)) as connected:
        yield connected


async def state_of(client: Client, namespace: str) -> ClusterState:
    """The state of the model called desk, which is there."""
    cluster = await observe(client, namespace, "desk", NOW)
    assert cluster is not None
    return cluster


async def desk(client: Client, namespace: str) -> ClusterState:
    """A model called desk, as observed right after it was made."""
    body = resources.model()
    body["metadata"]["namespace"] = namespace
    await client.create(body)
    return await state_of(client, namespace)


def configmap(state: ClusterState, name: str = "unit", **data: str) -> dict[str, Any]:
    owner = {
        "apiVersion": MODEL[0],
        "kind": MODEL[1],
        "name": state.name,
        "uid": state.model["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": False,
    }
    metadata = {"name": name, "namespace": state.namespace, "labels": LABELS, "ownerReferences": [owner]}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def patch(state: ClusterState, status: dict[str, Any]) -> PatchStatus:
    return PatchStatus(status, state.model["metadata"]["resourceVersion"])


def finalizers(state: ClusterState, *names: str) -> PatchFinalizers:
    return PatchFinalizers(names, state.model["metadata"]["resourceVersion"])


# -- requests ----------------------------------------------------------------------------------------------------------


async def test_a_list_has_every_page_and_says_what_its_items_are(
    client: Client, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "PAGE", 2)
    state = await desk(client, namespace)
    for number in range(5):
        await client.create(configmap(state, f"unit-{number}"))
    configmaps = await client.list("v1", "ConfigMap", namespace, "multitask.dev/model=desk")
    assert [item["metadata"]["name"] for item in configmaps] == [f"unit-{number}" for number in range(5)]
    assert {(item["apiVersion"], item["kind"]) for item in configmaps} == {("v1", "ConfigMap")}


async def test_an_object_that_exists_and_one_that_has_changed_are_different_errors(
    client: Client, namespace: str
) -> None:
    state = await desk(client, namespace)
    await client.create(configmap(state))
    with pytest.raises(AlreadyExists, match="already exists"):
        await client.create(configmap(state))
    stale = {"metadata": {"resourceVersion": "1"}, "status": {"stage": "x"}}
    with pytest.raises(Conflict, match="the object has been modified"):
        await client.patch_status(*MODEL, "desk", namespace, stale)


async def test_a_delete_means_one_object_and_not_its_name(client: Client, namespace: str) -> None:
    state = await desk(client, namespace)
    created = await client.create(configmap(state))
    with pytest.raises(Conflict):
        await client.delete("v1", "ConfigMap", "unit", namespace, uid="00000000-0000-0000-0000-000000000000")
    await client.delete("v1", "ConfigMap", "unit", namespace, uid=created["metadata"]["uid"])
    with pytest.raises(NotFound):
        await client.delete("v1", "ConfigMap", "unit", namespace, uid=created["metadata"]["uid"])


async def test_apply_changes_nothing_the_second_time_and_takes_back_what_others_changed(
    client: Client, namespace: str, cluster: ClusterClient
) -> None:
    state = await desk(client, namespace)
    body = configmap(state, note="ours")
    first = await client.apply(body)
    again = await client.apply(body)
    assert again["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    cluster.kubectl("-n", namespace, "patch", "configmap", "unit", "--patch", '{"data": {"note": "theirs"}}')
    assert (await client.apply(body))["data"] == {"note": "ours"}


async def test_an_invalid_object_is_refused_with_the_servers_own_words(client: Client, namespace: str) -> None:
    body = resources.model(suspend="later")
    body["metadata"]["namespace"] = namespace
    with pytest.raises(
        RequestRejected, match=r"create multitaskmodels\.multitask\.dev .*spec\.suspend.*boolean"
    ) as caught:
        await client.create(body)
    assert (caught.value.code, caught.value.reason) == (422, "Invalid")


async def test_a_permission_that_is_missing_is_named(cluster: ClusterClient, namespace: str) -> None:
    async with Client(await connect(cluster.service_account(namespace, "default"))) as nobody:
        with pytest.raises(Forbidden, match=rf'^list jobs\.batch in namespace "{namespace}": .*cannot list'):
            await nobody.list("batch/v1", "Job", namespace)


async def test_a_server_that_is_away_or_silent_is_unavailable(own_cluster: ControlPlane) -> None:
    configuration = await connect(own_cluster.client.admin)
    async with Client(configuration, timeout=aiohttp.ClientTimeout(total=1e-4)) as hasty:
        with pytest.raises(Unavailable, match="no answer from the API server: TimeoutError"):
            await hasty.get("v1", "Namespace", "default")
    own_cluster.stop_api_server()
    async with Client(configuration) as client:
        with pytest.raises(
            Unavailable, match=r'^get namespaces "default": no answer from the API server: Cannot connect'
        ):
            await client.get("v1", "Namespace", "default")
        own_cluster.start_api_server()
        assert (await client.get("v1", "Namespace", "default"))["metadata"]["name"] == "default"


async def test_without_a_kubeconfig_the_error_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(
        ConnectionConfigError, match=f"there is no kubeconfig at {tmp_path}/none; name one with --kubeconfig"
    ):
        await connect(tmp_path / "none")
    broken = tmp_path / "broken"
    broken.write_text("current-context: here")
    with pytest.raises(ConnectionConfigError, match=f"kubeconfig {broken} cannot be used: .*contexts"):
        await connect(broken)


# -- looking -----------------------------------------------------------------------------------------------------------


async def test_nothing_is_read_of_a_model_that_is_not_there(client: Client, namespace: str) -> None:
    assert await observe(client, namespace, "desk", NOW) is None


async def test_one_look_has_the_model_its_children_and_what_it_names_and_never_a_secret(
    client: Client, namespace: str, rest: httpx.Client, cluster: ClusterClient
) -> None:
    objects.claim(rest, namespace, "data")
    tasks = [
        resources.task("urgent"),
        resources.task("intent", labels=None, labelsFrom={"name": "words", "key": "intent"}),
    ]
    body = resources.model(tasks=tasks)
    body["metadata"]["namespace"] = namespace
    body["spec"]["training"] = {
        "podTemplate": {"spec": {"volumes": [{"name": "x", "persistentVolumeClaim": {"claimName": "scratch"}}]}}
    }
    await client.create(body)
    state = await state_of(client, namespace)
    await client.create(configmap(state, "unit"))
    foreign = configmap(state, "foreign")
    foreign["metadata"]["labels"] = {"multitask.dev/model": "other"}
    await client.create(foreign)
    noted = configmap(state, "noted")
    noted["metadata"]["labels"] = {"multitask.dev/model": "desk"}  # by a user, for a book of his own
    await client.create(noted)
    words = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "words", "namespace": namespace}}
    mark = cluster.audit_mark()
    before = await state_of(client, namespace)
    await client.create(words)
    after = await state_of(client, namespace)
    assert [item["metadata"]["name"] for item in before.configmaps] == ["unit"]
    assert before.namespace_object is not None
    assert before.namespace_object["metadata"]["name"] == namespace
    assert {name: pvc is not None for name, pvc in before.pvcs.items()} == {
        "data": True,
        "models": False,
        "scratch": False,
    }
    assert before.referenced_configmaps == {"words": None}
    assert after.referenced_configmaps["words"] is not None
    read = {event["objectRef"]["resource"] for event in cluster.audited(mark) if event["verb"] in ("get", "list")}
    assert "secrets" not in read
    assert "multitaskmodels" in read


# -- acting ------------------------------------------------------------------------------------------------------------


async def test_actions_are_done_in_order_and_doing_them_twice_changes_nothing_but_the_events(
    client: Client, namespace: str, cluster: ClusterClient
) -> None:
    state = await desk(client, namespace)
    actions = [Create(configmap(state, "made")), Apply(configmap(state, "applied")), patch(state, {"stage": "prepare"})]
    mark = cluster.audit_mark()
    assert await apply(client, state, [*actions, Event("Normal", "Started", "Preparing.")]) == Applied()
    assert cluster.writes(mark, "admin") == [
        f"create configmaps {namespace}/made",
        f"patch configmaps {namespace}/applied",
        f"patch multitaskmodels/status {namespace}/desk",
        next(line for line in cluster.writes(mark, "admin") if line.startswith("create events")),
    ]
    again = await state_of(client, namespace)
    actions[-1] = patch(again, {"stage": "prepare"})
    assert await apply(client, again, actions) == Applied()
    assert await state_of(client, namespace) == again


async def test_after_a_conflict_nothing_more_is_done(client: Client, namespace: str, cluster: ClusterClient) -> None:
    state = await desk(client, namespace)
    cluster.kubectl("-n", namespace, "annotate", "mtm", "desk", "note=changed")
    done = await apply(client, state, [patch(state, {"stage": "prepare"}), Create(configmap(state))])
    assert done == Applied(conflict=True)
    assert (await state_of(client, namespace)).configmaps == ()


async def test_fields_that_left_the_status_leave_the_object(client: Client, namespace: str) -> None:
    state = await desk(client, namespace)
    await apply(client, state, [patch(state, {"stage": "prepare", "progress": "1/9"})])
    state = await state_of(client, namespace)
    await apply(client, state, [patch(state, {"stage": "mixture"})])
    state = await state_of(client, namespace)
    assert state.model["status"] == {"stage": "mixture"}


async def test_finalizers_are_those_of_the_look_or_not_changed_at_all(
    client: Client, namespace: str, cluster: ClusterClient
) -> None:
    state = await desk(client, namespace)
    assert await apply(client, state, [finalizers(state, FINALIZER, "example.test/theirs")]) == Applied()
    assert await apply(client, state, [finalizers(state)]) == Applied(conflict=True)
    with_finalizers = await state_of(client, namespace)
    assert with_finalizers.model["metadata"]["finalizers"] == [FINALIZER, "example.test/theirs"]
    cluster.kubectl("-n", namespace, "delete", "mtm", "desk", "--wait=false")
    being_deleted = await state_of(client, namespace)
    assert (
        await apply(client, being_deleted, [finalizers(being_deleted), Event("Normal", "CleanedUp", "Gone.")])
        == Applied()
    )
    assert await observe(client, namespace, "desk", NOW) is None
    assert await apply(client, being_deleted, [finalizers(being_deleted)]) == Applied(conflict=True)


async def test_the_other_models_are_read_only_for_a_clean_up(
    client: Client, namespace: str, cluster: ClusterClient
) -> None:
    other = resources.model("other")
    other["metadata"]["namespace"] = namespace
    await client.create(other)
    state = await desk(client, namespace)
    await apply(client, state, [finalizers(state, FINALIZER)])
    assert (await state_of(client, namespace)).sibling_models == ()
    cluster.kubectl("-n", namespace, "delete", "mtm", "desk", "--wait=false")
    being_deleted = await state_of(client, namespace)
    assert [item["metadata"]["name"] for item in being_deleted.sibling_models] == ["other"]
    await apply(client, being_deleted, [finalizers(being_deleted)])


async def test_what_is_gone_or_another_by_now_is_not_deleted_and_not_an_error(client: Client, namespace: str) -> None:
    state = await desk(client, namespace)
    created = await client.create(configmap(state))
    other = Delete("ConfigMap", "v1", "unit", "00000000-0000-0000-0000-000000000000")
    gone = Delete("ConfigMap", "v1", "none", created["metadata"]["uid"])
    assert await apply(client, state, [other, gone]) == Applied()
    assert len((await state_of(client, namespace)).configmaps) == 1
    assert await apply(client, state, [dataclasses.replace(other, uid=created["metadata"]["uid"])]) == Applied()
    assert (await state_of(client, namespace)).configmaps == ()


async def test_an_object_of_another_owner_is_a_rejected_write_and_that_of_a_former_model_a_conflict(
    client: Client, namespace: str
) -> None:
    state = await desk(client, namespace)
    foreign = configmap(state, "foreign")
    del foreign["metadata"]["ownerReferences"]
    former = configmap(state, "former")
    former["metadata"]["ownerReferences"][0]["uid"] = "00000000-0000-0000-0000-000000000000"
    await client.create(foreign)
    await client.create(former)
    rejected = await apply(client, state, [Create(configmap(state, "foreign")), Create(configmap(state, "never"))])
    assert rejected.rejected_write is not None
    assert (rejected.rejected_write.kind, rejected.rejected_write.name, rejected.rejected_write.code) == (
        "ConfigMap",
        "foreign",
        409,
    )
    assert rejected.rejected_write.message == ("there is one of this name that does not belong to desk")
    assert (await apply(client, state, [Apply(configmap(state, "former"))])) in (Applied(conflict=True), Applied())
    assert (await apply(client, state, [Create(configmap(state, "former"))])) in (Applied(conflict=True), Applied())
    names = [item["metadata"]["name"] for item in (await state_of(client, namespace)).configmaps]
    assert "never" not in names


async def test_a_quota_is_a_refusal_that_says_so(client: Client, namespace: str, rest: httpx.Client) -> None:
    quota = {"metadata": {"name": "few"}, "spec": {"hard": {"count/configmaps": "0"}}}
    objects.post(rest, f"/api/v1/namespaces/{namespace}/resourcequotas", quota)
    state = await desk(client, namespace)
    applied = await apply(client, state, [Create(configmap(state)), patch(state, {"stage": "never"})])
    assert applied.rejected_write is not None
    assert (applied.rejected_write.verb, applied.rejected_write.code, applied.rejected_write.reason) == (
        "create",
        403,
        "Forbidden",
    )
    assert "exceeded quota: few" in applied.rejected_write.message


async def test_an_event_is_about_the_model_and_its_failure_is_no_failure(
    client: Client, namespace: str, cluster: ClusterClient, caplog: pytest.LogCaptureFixture
) -> None:
    state = await desk(client, namespace)
    assert await apply(client, state, [Event("Warning", "BadRows", "ü" * 2000)]) == Applied()
    (event,) = cluster.get("-n", namespace, "events.v1.events.k8s.io")["items"]
    assert (event["reason"], event["type"], event["note"]) == ("BadRows", "Warning", "ü" * 510 + "…")
    assert event["regarding"]["uid"] == state.model["metadata"]["uid"]
    elsewhere = dataclasses.replace(state, namespace="no-such-namespace")
    assert await apply(client, elsewhere, [Event("Normal", "Lost", "Nobody hears it.")]) == Applied()
    assert "no-such-namespace/desk: Event Lost: create events.events.k8s.io" in caplog.text
