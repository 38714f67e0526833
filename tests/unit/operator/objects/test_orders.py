"""The order of a stage that runs in a pod."""

from __future__ import annotations

import pytest

from multitask_api.stage_io.manifest import StageOrder
from multitask_operator.objects.orders import stage_order
from support.graph_builders import all_done, graph_of, model, task
from support.object_samples import graph_until, ready, resource

CLAIM, BUCKET = "/multitask/claims/models/desk", "s3://bucket/desk"


def test_an_order_names_what_it_reads_and_where_its_artifact_goes():
    desk = resource()
    graph = graph_until(desk, "baseline")
    node = graph["baseline/intent/seed-17"]
    prepare, base = graph["prepare/intent"], graph["base"]
    assert stage_order("team-a/desk", desk.spec, graph, node) == StageOrder(
        model="team-a/desk",
        stage="baseline/intent/seed-17",
        kind="baseline",
        digest=node.digest,
        version=node.version,
        parameters=node.parameters.to_json(),
        read_outputs=dict(node.read_outputs),
        inputs={
            "prepare/intent": f"{CLAIM}/stages/prepare/intent/{prepare.digest}",
            "base": f"{CLAIM}/stages/base/{base.digest}",
        },
        output=f"{CLAIM}/stages/baseline/intent/seed-17/{node.digest}",
        work=f"{CLAIM}/work/team-a__desk/baseline__intent__seed-17-{node.digest}",
        threads=1,
        device="cpu",
    )


def test_the_folder_of_a_stage_that_stands_in_for_a_skipped_one_is_read_under_the_name_of_that():
    desk = model(task("urgency"), task("intent"), task("reply", "Generation"), storage={"uri": "pvc://models/desk"})
    graph = graph_of(desk, all_done(desk, until="bundle"))
    inputs = stage_order("team-a/desk", desk.spec, graph, graph["bundle"]).inputs
    baseline = graph["baseline/reply/seed-17"]
    assert inputs["mixture/generation"] == f"{CLAIM}/stages/baseline/reply/seed-17/{baseline.digest}"
    assert inputs["mixture/classification"].startswith(f"{CLAIM}/stages/mixture/classification/")


def test_on_a_bucket_work_is_the_pods_own_and_checkpoints_are_copied():
    (order, *_) = ready(resource(storage=BUCKET), "baseline")
    place = f"work/team-a__desk/{order.stage.replace('/', '__')}-{order.digest}"
    assert order.output == f"{BUCKET}/stages/{order.stage}/{order.digest}"
    assert (order.work, order.checkpoint) == (f"/multitask/work/{place}", f"{BUCKET}/{place}")
    assert all(address.startswith(f"{BUCKET}/stages/") for address in order.inputs.values())


def test_on_a_claim_checkpoints_stay_where_they_are_written():
    assert {order.checkpoint for order in ready(resource(), "baseline")} == {None}


def test_gradient_checkpointing_is_in_the_orders_of_stages_that_train_and_in_no_digest():
    always = resource(training={"gradientCheckpointing": "Always"})
    for kind, expected in (("baseline", {"Always"}), ("prepare", {None}), ("base", {"Always"})):
        orders = ready(always, kind)
        assert {order.gradient_checkpointing for order in orders} == expected
        assert [order.digest for order in orders] == [order.digest for order in ready(resource(), kind)]


def test_sharding_is_in_the_orders_of_stages_that_several_gpus_train_and_in_no_digest():
    several = {"training": {"gpusPerNode": 2}}
    always = resource(training={"gpusPerNode": 2, "sharding": "Always"})
    for kind, expected in (("baseline", {"Always"}), ("prepare", {None}), ("base", {"Always"}), ("evaluate", {None})):
        orders = ready(always, kind)
        assert {order.sharding for order in orders} == expected
        assert [order.digest for order in orders] == [order.digest for order in ready(resource(**several), kind)]


DEVICES = [
    ("prepare", 2, "cpu"),
    ("base", 2, "cpu"),
    ("baseline", 2, "cuda"),
    ("filter", 2, "cpu"),
    ("mixture", 2, "cuda"),
    ("bundle", 2, "cpu"),
    ("evaluate", 2, "cuda"),
    ("export", 2, "cuda"),
    ("baseline", 0, "cpu"),
    ("evaluate", 0, "cpu"),
]


@pytest.mark.parametrize(("kind", "count", "device"), DEVICES)
def test_a_stage_computes_where_its_pod_has_what_it_takes(kind, count, device):
    assert {order.device for order in ready(resource(training={"gpusPerNode": count}), kind)} == {device}


def test_threads_are_the_cpus_of_the_pod():
    desk = resource(training={"gpusPerNode": 0, "resources": {"limits": {"cpu": "6"}}})
    assert {order.threads for order in ready(desk, "baseline")} == {6}
    assert {order.threads for order in ready(desk, "prepare")} == {1}


def test_what_waits_has_no_order_yet():
    desk = resource()
    graph = graph_of(desk)
    with pytest.raises(ValueError, match="bundle is waiting"):
        stage_order("desk", desk.spec, graph, graph["bundle"])
