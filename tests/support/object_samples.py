"""Specs, owners and Jobs for tests of the objects."""

from __future__ import annotations

from multitask_api.cluster import qualified_name
from multitask_api.stages import NodeState
from multitask_operator.objects.names import Owner
from multitask_operator.objects.orders import stage_order
from multitask_operator.objects.pods import PodSettings
from multitask_operator.objects.stage_jobs import StageJobSpec
from support.graph_builders import all_done, graph_of, model

OWNER = Owner("team-a", "desk", "0d4c2bb1-8f3e-4b57-9f4b-2f1f7f0a7c11")
SETTINGS = PodSettings("registry.example/trainer:1")
CPU = {"gpusPerNode": 0}


def resource(*tasks, storage="pvc://models/desk", training=CPU, **spec):
    return model(*tasks, storage={"uri": storage}, training=training, **spec)


def graph_until(resource, kind):
    """The graph in which stages of ``kind`` are ready."""
    return graph_of(resource, all_done(resource, until=kind))


def ready(resource, kind):
    """The orders of the ready stages of ``kind``."""
    graph = graph_until(resource, kind)
    nodes = [node for node in graph.of_kind(kind) if node.state is NodeState.READY]
    return [stage_order(qualified_name(OWNER.namespace, OWNER.name), resource.spec, graph, node) for node in nodes]


def job_spec(resource, kind):
    """The Job of the first ready stage of ``kind``, or of all prepares, or resolve or clean-up."""
    if kind == "resolve":
        return StageJobSpec.of_resolve(OWNER, 3, None)
    if kind == "clean-up":
        return StageJobSpec.of_clean_up(OWNER, 3)
    orders = ready(resource, kind)
    return StageJobSpec.of_stages(OWNER, 3, orders if kind == "prepare" else orders[:1])
