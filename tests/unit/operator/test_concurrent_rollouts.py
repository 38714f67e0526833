"""The bound on rollouts holds while all workers decide at the same time, and no watch has shown what the others did."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import dataclasses
import json
import random

import pytest

from multitask_api.serving_io.names import IMAGE_ANNOTATION
from multitask_kubernetes.errors import (
    AlreadyExists,
    ClusterError,
    Conflict,
    NotFound,
    Request,
    RequestRejected,
    Unavailable,
)
from multitask_operator.cluster.cache import Cache
from multitask_operator.cluster.rollout_places import UNKNOWN_SECONDS, RolloutPlaces
from multitask_operator.controller import Controller, NamespacedName
from multitask_operator.reconciler import reconcile
from support.fake_api_server import merged
from support.graph_builders import task
from support.simulated_servers import SERVING_SETTINGS, ServedCluster

MODELS = 12
SERVED = []


def served_model():
    """What there is in the cluster of one model that is served."""
    if not SERVED:
        cluster = ServedCluster(task("urgency"))
        cluster.serve()
        cluster.annotate(IMAGE_ANNOTATION, "now")
        pvc = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", **cluster.pvcs["models"]}
        pvc["metadata"] = {"name": "models", "uid": "u-claim", "resourceVersion": "1"}
        items = [cluster.model, pvc, *cluster.objects.values()]
        for item in items:
            item["metadata"]["namespace"] = "ml"
        SERVED.extend(items)
    return SERVED


def of_namespace(items, namespace):
    """The same model in another namespace."""
    text = json.dumps(items).replace('"ml"', f'"{namespace}"').replace("ml/desk", f"{namespace}/desk")
    items = json.loads(text)
    for item in items:
        metadata = item["metadata"]
        metadata |= {"resourceVersion": "1", "uid": metadata.get("uid", f"u-{namespace}-{metadata['name']}")}
    return items


class ApiServer:
    """Keeps objects as the API server does, and answers after a while. Its watches show what was there at first.

    ``fault``: called with the verb, kind and namespace of a write; what it gives is raised instead of the answer, and
    ``is_made`` says whether the write was made nevertheless.
    """

    def __init__(self, items, cache, seed=0):
        self.items = {self._key(item): item for item in items}
        self.first = copy.deepcopy(items)
        self.cache, self.rng, self.version = cache, random.Random(seed), 1000
        self.fault, self.is_made = lambda verb, kind, namespace: None, False

    async def pages(self, api_version, kind, namespace, *_, metadata_only):
        yield [item for item in self.first if (item["apiVersion"], item["kind"]) == (api_version, kind)], "1000"

    async def watch(self, *_, metadata_only):
        await asyncio.Event().wait()
        yield None

    async def get(self, api_version, kind, name, namespace=None):
        await self._wait()
        item = self.items.get((kind, namespace, name))
        if item is None:
            raise NotFound(f"no {kind} {name}")
        return copy.deepcopy(item)

    async def list(self, api_version, kind, namespace=None, labels=None, fields=None):
        await self._wait()
        items = [
            copy.deepcopy(item) for (own, space, _), item in self.items.items() if (own, space) == (kind, namespace)
        ]
        wanted = dict(pair.split("=", 1) for pair in (labels or "").split(",") if pair)
        return tuple(item for item in items if wanted.items() <= (item["metadata"].get("labels") or {}).items())

    async def create(self, body, *, dry_run=False):
        if not dry_run and self._key(body) in self.items:
            await self._wait()
            raise AlreadyExists(f"{body['kind']} {body['metadata']['name']} exists")
        return body if dry_run else await self._write("create", body)

    async def apply(self, body):
        return await self._write("apply", merged(self.items.get(self._key(body), {}), body))

    async def delete(self, api_version, kind, name, namespace, *, uid, propagation="Background"):
        await self._wait()
        self.items.pop((kind, namespace, name), None)

    async def patch(self, api_version, kind, name, namespace, body):
        return await self._patch("patch", kind, name, namespace, body)

    async def patch_status(self, api_version, kind, name, namespace, body):
        return await self._patch("patch status", kind, name, namespace, body)

    async def _patch(self, verb, kind, name, namespace, body):
        await self._wait()
        item = self.items[kind, namespace, name]
        if body["metadata"]["resourceVersion"] != item["metadata"]["resourceVersion"]:
            raise Conflict(f"{kind} {name} has changed")
        return await self._write(verb, merged(item, body))

    async def _write(self, verb, body):
        error = self.fault(verb, body["kind"], body["metadata"]["namespace"])
        item = copy.deepcopy(dict(body))
        self.version += 1
        made = {"uid": f"u-{self.version}", "creationTimestamp": "2027-01-16T00:00:00Z", "generation": 1}
        item["metadata"] = made | item["metadata"] | {"resourceVersion": str(self.version)}
        if error is None or self.is_made:
            self.items[self._key(item)] = item
        await self._wait()
        if error is not None:
            raise error
        self.cache.saw(copy.deepcopy(item))
        return copy.deepcopy(item)

    async def _wait(self):
        for _ in range(self.rng.randrange(1, 6)):
            await asyncio.sleep(0)

    def show_tables(self):
        """The watch has caught up."""
        for (kind, _, _), item in self.items.items():
            if kind == "TaskRoute":
                self.cache.saw(copy.deepcopy(item))

    @property
    def rolling(self):
        """The namespaces whose model rolls out, by what is stored."""
        routes = {space: item for (kind, space, _), item in self.items.items() if kind == "TaskRoute"}
        return {space for space, item in routes.items() if item["status"]["rollout"]["phase"] == "Verifying"}

    @staticmethod
    def _key(item):
        return item["kind"], item["metadata"]["namespace"], item["metadata"]["name"]


class Installation:
    """An operator that may let ``bound`` models roll out at the same time; each of them has a new revision."""

    def __init__(self, bound, seed=0):
        self.now = 1_800_100_000.0
        self.keys = [NamespacedName(f"team-{number}", "desk") for number in range(MODELS)]
        items = [item for key in self.keys for item in of_namespace(served_model(), key.namespace)]
        self.cache = Cache(())
        self.server = ApiServer(items, self.cache, seed)
        settings = dataclasses.replace(SERVING_SETTINGS, max_concurrent_rollouts=bound)
        self.controller = Controller(self.server, settings, reconcile, self.cache, clock=lambda: self.now)

    async def __aenter__(self):
        self._watching = asyncio.create_task(self.cache.run(self.server, lambda *_: None))
        settled = asyncio.create_task(self.cache.settled())
        await asyncio.wait([self._watching, settled], return_when=asyncio.FIRST_COMPLETED)
        assert not self._watching.done(), self._watching.exception()
        return self

    async def __aexit__(self, *_):
        self._watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._watching

    async def reconcile_all(self):
        """A worker for every model, all at once; the errors that they end with."""
        ended = await asyncio.gather(*map(self.controller.reconcile, self.keys), return_exceptions=True)
        errors = [each for each in ended if isinstance(each, BaseException)]
        assert all(isinstance(each, ClusterError) for each in errors), errors
        return errors


@pytest.mark.parametrize("bound", [1, 3, MODELS])
@pytest.mark.parametrize("seed", range(4))
async def test_workers_that_decide_at_once_begin_no_more_rollouts_than_may_be(bound, seed):
    async with Installation(bound, seed) as installation:
        for _ in range(4):
            await installation.reconcile_all()
            assert len(installation.server.rolling) == bound


async def test_a_rollout_that_ends_leaves_its_place_to_one_other():
    async with Installation(2) as installation:
        await installation.reconcile_all()
        before = installation.server.rolling
        ended = min(before)
        route = copy.deepcopy(installation.server.items["TaskRoute", ended, "desk"])
        route["status"]["rollout"]["phase"] = "Paused"
        await installation.server.patch_status("", "TaskRoute", "desk", ended, route)
        installation.keys = [key for key in installation.keys if key.namespace not in before]
        await installation.reconcile_all()
        assert len(installation.server.rolling) == 2
        assert before - {ended} < installation.server.rolling


FAULTS = {
    "the API server does not answer, and wrote it": (Unavailable("no answer"), True),
    "the API server does not answer": (Unavailable("no answer"), False),
    "it is rejected": (RequestRejected(Request("patch", "taskroutes", "", "desk"), 422, "Invalid", "no"), False),
    "somebody else wrote": (Conflict("out of date"), False),
}


@pytest.mark.parametrize("bound", [1, 3])
@pytest.mark.parametrize("sentence", FAULTS)
async def test_a_write_that_fails_neither_breaks_the_bound_nor_keeps_a_place_for_good(sentence, bound):
    error, is_made = FAULTS[sentence]
    async with Installation(bound) as installation:
        server, failed = installation.server, set()

        def fault(verb, kind, namespace):
            if (verb, kind) != ("patch status", "TaskRoute") or len(failed) == bound:
                return None
            failed.add(namespace)
            return error

        server.fault, server.is_made = fault, is_made
        await installation.reconcile_all()
        assert len(server.rolling) <= bound
        assert len(failed) == bound
        await installation.reconcile_all()
        assert len(server.rolling) <= bound
        server.show_tables()
        installation.now += UNKNOWN_SECONDS + 1
        for _ in range(3):
            await installation.reconcile_all()
            assert len(server.rolling) == bound


async def test_a_failure_before_the_write_keeps_no_place():
    async with Installation(1) as installation:
        failed = []

        def fault(verb, kind, namespace):
            if (verb, kind) != ("create", "ConfigMap") or (failed and namespace not in failed):
                return None
            failed.append(namespace)
            return Unavailable("no answer")

        installation.server.fault = fault
        errors = await installation.reconcile_all()
        assert ([str(each) for each in errors], installation.server.rolling) == (["no answer"], set())
        installation.now += UNKNOWN_SECONDS + 1
        installation.keys = [key for key in installation.keys if key.namespace not in failed]
        await installation.reconcile_all()
        assert len(installation.server.rolling) == 1


def test_a_place_is_taken_until_the_write_is_over():
    places = RolloutPlaces()
    places.release_later("ml/never-taken", 0.0)
    places.take("ml/a")
    places.take("ml/b")
    assert places.taken(1e9) == {"ml/a", "ml/b"}
    places.release("ml/a")
    places.release_later("ml/b", 100.0)
    assert places.taken(100.0 + UNKNOWN_SECONDS - 1) == {"ml/b"}
    assert places.taken(100.0 + UNKNOWN_SECONDS + 1) == frozenset()
