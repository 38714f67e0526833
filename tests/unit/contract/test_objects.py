"""The objects that the operator creates for a model, whole, as version 0.1.0 does: an older trainer image runs them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from multitask_api.cluster import GC, POD_SETTINGS_ANNOTATION, GarbageOrder, qualified_name
from multitask_api.routes import Backend, RoutedTask, RouteMetadata, TaskRoute, TaskRouteSpec
from multitask_api.serving_io.revision import Revision, RevisionTask
from multitask_api.serving_io.verify import VERIFY_REVISION
from multitask_api.stages.versions import UNRECORDED_VERSIONS
from multitask_operator.objects import configmaps, jobs, orders, rbac
from multitask_operator.objects.names import STAGES, Owner
from multitask_operator.objects.pods import PodSettings
from multitask_operator.objects.serving import workload
from multitask_operator.objects.serving.pods import ServerSettings, server_template, start_seconds
from multitask_operator.objects.serving.revisions import adoption, revision_configmap
from multitask_operator.objects.serving.routes import route_copy, task_route
from multitask_operator.objects.serving.workload import Gateways
from multitask_operator.objects.stage_jobs import StageJobSpec
from support.contract_fixtures import NAMESPACE, SAMPLES, read_fixture, sample_graph, sample_model

Map = dict[str, Any]
UID = "0d4c2bb1-8f3e-4b57-9f4b-2f1f7f0a7c11"
GENERATION = 3
SETTINGS = PodSettings("registry.example/trainer:1")
#: Sample → the stages of each of its Jobs in the fixture.
STAGE_NAMES = {
    "full": (
        ("prepare/intent", "prepare/reply", "prepare/urgency"),
        ("baseline/urgency/seed-17",),
        ("evaluate/classification",),
    ),
    "lora": (("mixture/all",),),
}


@pytest.mark.parametrize("sample", SAMPLES)
def test_objects_of(sample: str):
    expected = read_fixture(f"{sample}-objects")
    created = {f"{item['kind']} {item['metadata']['name']}": _parsed(item) for item in _objects(sample)}

    assert sorted(created) == sorted(expected)
    for name, item in created.items():
        assert item == expected[name], name


def test_objects_of_a_revision():
    """An immutable record is never written again: what it has must be read for as long as revisions are kept."""
    expected = read_fixture("revision-objects")
    *objects, copy = (_parsed(item) for item in _revision_objects())
    created = {item["kind"]: item for item in objects} | {"copy of the TaskRoute": copy}

    assert sorted(created) == sorted(expected)
    for kind, item in created.items():
        assert item == expected[kind], kind


def _revision_objects() -> Iterator[Map]:
    model = sample_model("full")
    owner = Owner(NAMESPACE, model.metadata.name, UID)
    name = "0123abcd"
    task = RevisionTask(
        name="urgency",
        type="Classification",
        fields=("text",),
        labels=("low", "high"),
        served_by="classification",
        metric="Accuracy",
        score=0.91,
        baseline=0.9,
        verdict="Qualified",
        contract="c0ffee",
    )
    record = Revision(
        revision=name,
        model=qualified_name(NAMESPACE, owner.name),
        trained="89abcdef",
        generation=GENERATION,
        storage="/multitask/claims/desk/artifacts",
        artifact="stages/export/4711",
        bundle_digest="89abcdef",
        bundle_bytes=1_000_000_000,
        image="registry.example/triton:1",
        tasks=(task,),
        test_data={"urgency": "beef"},
    )
    settings = ServerSettings("registry.example/triton:1")
    template = server_template(owner, model.spec, name, record.bundle_bytes, settings)
    yield revision_configmap(owner, record, template, "2026-11-27")
    yield workload.deployment(owner, name, template, 2, start_seconds(record.bundle_bytes), adoption("2026-11-27"))
    yield workload.service(owner, name)
    yield workload.network_policy(owner, name, Gateways("gateways", {"app.kubernetes.io/component": "gateway"}))
    yield workload.disruption_budget(owner, name)
    backend = Backend(service=f"{owner.name}-serve-{name}", port=8001, revision=name)
    routed = RoutedTask(name="urgency", type="Generation", fields=("text",), window=f"{name}/0", backends=(backend,))
    spec = TaskRouteSpec(namespace=NAMESPACE, model=owner.name, tasks=(routed,))
    yield task_route(owner, spec)
    copy = route_copy(owner, TaskRoute(metadata=RouteMetadata(name=owner.name), spec=spec))
    assert copy is not None
    yield copy


def _objects(sample: str) -> Iterator[Map]:
    model = sample_model(sample)
    spec, owner = model.spec, Owner(NAMESPACE, model.metadata.name, UID)
    graph = sample_graph(sample)
    for kind in (STAGES, VERIFY_REVISION, GC) if sample == "full" else (STAGES,):
        account = rbac.service_account(owner, spec, kind)
        assert account is not None
        binding = rbac.role_binding(owner, kind, [rbac.account_name(owner, spec, kind)])
        yield from (account, rbac.role(owner, kind, ["first", "second"]), binding)
    yield configmaps.run_snapshot(owner, spec, GENERATION, SETTINGS.image, UNRECORDED_VERSIONS, None)
    if sample == "full":
        resolve = StageJobSpec.of_resolve(owner, GENERATION, None)
        yield from (configmaps.resolve_configmap(owner, model, resolve), jobs.stage_job(owner, spec, resolve, SETTINGS))
        collect = StageJobSpec.of_gc(owner, GENERATION, "list 2026-11-28T05:00:00Z")
        garbage = GarbageOrder(model=f"{NAMESPACE}/desk", storage="/s", keep=("base/0123",), dry_run=True)
        yield from (
            configmaps.gc_configmap(owner, spec, collect, garbage),
            jobs.stage_job(owner, spec, collect, SETTINGS),
        )
        clean_up = StageJobSpec.of_clean_up(owner, GENERATION)
        yield from (
            configmaps.clean_up_configmap(owner, spec, clean_up),
            jobs.stage_job(owner, spec, clean_up, SETTINGS),
        )
    for names in STAGE_NAMES[sample]:
        of_stages = [
            orders.stage_order(qualified_name(NAMESPACE, owner.name), spec, graph, graph[name]) for name in names
        ]
        job = StageJobSpec.of_stages(owner, GENERATION, of_stages)
        yield from (configmaps.stage_configmap(owner, spec, job), jobs.stage_job(owner, spec, job, SETTINGS))
        service = jobs.stage_service(owner, spec, job)
        if service is not None:
            yield service


def _parsed(item: Map) -> Map:
    """As JSON gives it back, a ConfigMap's values parsed."""
    item = json.loads(json.dumps(item))
    if item["kind"] == "Job":
        # A hash of all the rest: only the release that wrote it compares it.
        assert len(item["metadata"]["annotations"].pop(POD_SETTINGS_ANNOTATION)) == 12
    if item["kind"] == "ConfigMap":
        item["data"] = {key: json.loads(text) for key, text in item["data"].items()}
    return item
