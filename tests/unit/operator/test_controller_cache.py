"""What may not be watched is not decided upon: a cache that lacks it would call it missing."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from multitask_kubernetes.errors import Forbidden, Request
from multitask_operator.cluster.cache import CONFIGMAP, EVENT, JOB, METADATA, MODEL, PVC, Cache
from multitask_operator.controller import Controller, NamespacedName
from multitask_operator.reconciler import reconcile
from multitask_operator.settings import read_settings
from support.graph_builders import task
from support.simulation import SETTINGS, Cluster

DESK = NamespacedName("ml", "desk")
KINDS = {"models": MODEL, "claims": PVC, "Jobs": JOB, "ConfigMaps": CONFIGMAP, "names": METADATA, "Events": EVENT}


class ApiServer:
    """Lists and watches what there is, but for one kind that is refused. Nothing may be read live."""

    def __init__(self, items=(), without=None):
        self.items, self.without = items, without
        self.live_reads = 0

    async def pages(self, api_version, kind, namespace, *_, metadata_only):
        if (METADATA if metadata_only else (api_version, kind)) == self.without:
            raise refused(kind)
        yield [item for item in self.items if (item["apiVersion"], item["kind"]) == (api_version, kind)], "9"

    async def watch(self, *_, metadata_only):
        await asyncio.Event().wait()
        yield None

    async def get(self, api_version, kind, name, namespace=None):
        return await self.list(api_version, kind, namespace)

    async def list(self, api_version, kind, namespace=None, labels=None, fields=None):
        self.live_reads += 1
        raise refused(kind)


def refused(kind):
    return Forbidden(Request("list", kind.lower(), "ml", None), 403, "Forbidden", f"{kind} is forbidden")


def trained_model():
    """What there is in the cluster."""
    cluster = Cluster(task("urgency"))
    cluster.to_the_end()
    items = [cluster.model, *cluster.objects.values(), *map(_claim, cluster.pvcs.values())]
    for item in items:
        item["metadata"].setdefault("namespace", "ml")
    return items


def _claim(pvc):
    metadata = {"namespace": "ml", "uid": "u-claim", "resourceVersion": "1"}
    return pvc | {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": pvc["metadata"] | metadata}


def table(namespace, name, *tasks):
    labels = {"app.kubernetes.io/managed-by": "multitask-operator", "multitask.dev/model": name}
    metadata = {"namespace": namespace, "name": name, "uid": f"u-{name}", "resourceVersion": "2", "labels": labels}
    metadata["creationTimestamp"] = "2026-01-01T00:00:00Z"
    spec = {"tasks": [{"name": each} for each in tasks]}
    return {"apiVersion": "multitask.dev/v1alpha1", "kind": "TaskRoute", "metadata": metadata, "spec": spec}


async def decisions(server):
    """Reconcile from the watches; what was decided, and whether a read was refused."""
    made = []

    def decide(state, settings, now):
        made.append(reconcile(state, settings, now))
        return made[-1]

    cache = Cache(())
    watching = asyncio.create_task(cache.run(server, lambda *_: None))
    await cache.settled()
    try:
        await Controller(server, SETTINGS, decide, cache, clock=lambda: 2_000_000_000.0).reconcile(DESK)
    except Forbidden:
        return made, True
    finally:
        watching.cancel()
    return made, False


@pytest.mark.parametrize("sentence", KINDS)
async def test_nothing_is_decided_while_the_operator_may_not_see(sentence):
    server = ApiServer(trained_model(), without=KINDS[sentence])
    assert await decisions(server) == ([], True)
    assert server.live_reads > 0


async def test_what_the_watches_show_costs_no_read():
    server = ApiServer(trained_model())
    (result,), was_refused = await decisions(server)
    assert (result.actions, was_refused, server.live_reads) == ((), False, 0)


async def test_a_decision_knows_who_else_wants_the_names_of_its_tasks():
    tables = (table("ml", "desk", "urgency"), table("a", "inbox", "urgency"), table("a", "else", "intent"))
    states = []
    cache = Cache(())
    watching = asyncio.create_task(cache.run(ApiServer([*trained_model(), *tables]), lambda *_: None))
    await cache.settled()

    def decide(state, settings, now):
        states.append(state)
        return reconcile(state, settings, now)

    controller = Controller(ApiServer(), SETTINGS, decide, cache, clock=lambda: 2_000_000_000.0)
    with contextlib.suppress(Forbidden):
        await controller.reconcile(DESK)
    watching.cancel()
    claims = {(each.namespace, each.model): (each.tasks, each.created, each.uid) for each in states[0].name_claims}
    assert claims == {
        ("ml", "desk"): (("urgency",), "2026-01-01T00:00:00Z", "u-desk"),
        ("a", "inbox"): (("urgency",), "2026-01-01T00:00:00Z", "u-inbox"),
    }


CERTIFICATES = {
    "another authority's": ("second", "second"),
    "none, while it is replaced": (None, "first"),
    "an empty one, while it is replaced": ("", "first"),
    "no text": (b"\xff\xfe", "first"),
    "the same": ("first", "first"),
}


@pytest.mark.parametrize("sentence", CERTIFICATES)
async def test_the_file_of_the_gateways_authority_is_followed(tmp_path, sentence):
    content, expected = CERTIFICATES[sentence]
    file = tmp_path / "ca.crt"
    file.write_text("first")
    variables = {"MULTITASK_TRAINER_IMAGE": "trainer:1", "MULTITASK_GATEWAY_CA_FILE": str(file)}
    seen = []

    def decide(state, settings, now):
        seen.append(settings.gateway_ca)
        return reconcile(state, settings, now)

    cache = Cache(())
    watching = asyncio.create_task(cache.run(ApiServer(trained_model()), lambda *_: None))
    await cache.settled()
    controller = Controller(ApiServer(), read_settings({}, variables), decide, cache, clock=lambda: 2_000_000_000.0)
    await controller.reconcile(DESK)
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    await controller.reconcile(DESK)
    watching.cancel()
    assert seen == ["first", expected]
