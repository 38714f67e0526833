"""The status of a model whose generation is resolved, without a cluster."""

from __future__ import annotations

from multitask_api.stages.versions import VERSIONS
from multitask_operator.objects.names import Owner
from multitask_operator.objects.stage_jobs import StageJobSpec
from multitask_operator.planner import plan
from multitask_operator.reconciler.contribution import model_status
from multitask_operator.reconciler.state.cluster_state import ClusterState
from multitask_operator.reconciler.state.model_state import ModelState
from multitask_operator.reconciler.state.planner_input import Resolution
from multitask_operator.reconciler.state.run_record import RunRecord
from multitask_operator.reconciler.training.status import training_status
from multitask_operator.settings import Settings
from support.graph_builders import planner_input, resolved

SETTINGS = Settings(trainer_image="registry.example/trainer:1")


def state(resource, manifests=None, *, now=0.0, previous=None, **seen):
    """A model whose generation is resolved, without any Job; ``previous``: its status."""
    metadata = {"name": "desk", "namespace": "ml", "uid": "u-desk", "generation": 1}
    document = {"metadata": metadata, "status": previous.to_json() if previous else {}}
    view = planner_input(resource, manifests, **seen)
    report = Resolution(resolved(resource))
    return ModelState(
        cluster=ClusterState("ml", "desk", document),
        now=now,
        model=resource,
        run=RunRecord(VERSIONS, None),
        stage_jobs=(),
        resolve_jobs=(),
        resolve_spec=StageJobSpec.of_resolve(Owner.of(document), 1, None),
        resolution=report,
        latest_resolution=report,
        planner_input=view,
        plan=plan(resource, view, now),
    )


def status(resource, manifests=None, blocker=None, *, is_progressing=False, **more):
    given = state(resource, manifests, **more)
    part = training_status(given, SETTINGS, given.plan.starts, blocker, is_progressing=is_progressing)
    return model_status(given.cluster, [part], given.now)
