"""``mtm plan NAME``: which stages are done, run, or will run. Writes nothing."""

from __future__ import annotations

import time

from multitask_api.cluster import REFRESH_ANNOTATION
from multitask_api.machine.gpu_models import known_gpu
from multitask_api.resource.training import Training
from multitask_api.stages import build
from multitask_api.stages.warm_start import starts
from multitask_operator.commands import plan as local
from multitask_operator.commands.cluster.jobs import first_line
from multitask_operator.commands.cluster.options import ClusterOptions
from multitask_operator.commands.cluster.session import read_model
from multitask_operator.commands.console import print_json, print_line
from multitask_operator.commands.costs import cost_text, device_of, in_cluster, named_device
from multitask_operator.planner.estimate import estimate
from multitask_operator.planner.joint import BaselineWork
from multitask_operator.planner.misfit import change_that_fits
from multitask_operator.planner.stage_memory import Device
from multitask_operator.planner.steps import epoch_hints
from multitask_operator.reconciler.state.model_state import ModelState
from multitask_operator.reconciler.training.scheduling import joint_places
from multitask_operator.report.report_warnings import frozen_base_notes

OTHER_RELEASE = (
    "the run goes on with the stage versions and the image of the release that began it; an edit of what is trained, or"
    f" a new value of the annotation {REFRESH_ANNOTATION}, begins a run of this release"
)


def plan(name: str, options: ClusterOptions, *, as_json: bool, gpu: str | None = None) -> int:
    """Show the plan of the model called ``name``; memory and time on ``gpu``, by default that of its node selector."""
    now = time.time()
    cluster = read_model(options, name, now)
    summary = summarize(ModelState.of(cluster, now), gpu)
    if as_json:
        print_json(local.to_json(summary))
        return summary.status
    local.print_stages(summary)
    print_line(f"{local.count_done(summary.graph)} stages done; namespace {cluster.namespace}")
    if summary.graph.finished:
        print_line("nothing to run")
    else:
        print_line(f"training left: {cost_text(summary.cost)}")
        print_line(f"next: {summary.change or f'mtm explain {name} -n {cluster.namespace}'}")
    return summary.status


def summarize(state: ModelState, gpu: str | None = None) -> local.PlanSummary:
    """What the command prints."""
    model, graph, seen = state.model, state.plan.graph, state.planner_input
    device, shape = _device(model.spec.training, gpu), local.find_shape(graph, seen.resolved)
    states = {node.name: local.describe_state(node, graph) for node in graph.nodes}
    wanted = {(node.name, node.digest) for node in graph.nodes}
    states |= {run.stage: "running" for run in seen.running if (run.stage, run.digest) in wanted}
    states |= {item.failure.stage: f"failed: {first_line(item.failure.message)}" for item in state.plan.failed}
    notes = [
        *model.spec.hints(),
        *epoch_hints(model, graph, None),
        *starts(graph.nodes),
        *frozen_base_notes(model, graph),
    ]
    if not state.run.is_of_this_release:
        notes.append(OTHER_RELEASE)
    if not state.is_resolved:
        notes.append(
            "data and storage have not been checked for this generation yet; which stages are cached may change"
        )
    places = joint_places(state).get("baseline", 0)
    cost = estimate(model, graph, measured=gpu is None, shape=shape, device=device, places=places)
    return local.PlanSummary(
        model=model,
        graph=graph,
        states=states,
        probabilities=local.sampling_probabilities(model, graph),
        ignored=[],
        notes=notes,
        cost=cost,
        baselines=BaselineWork.of(model.spec, graph, places),
        change=change_that_fits(
            model,
            cost,
            lambda changed: build(changed.metadata.name, changed.spec, seen.resolved, seen.manifests, seen.versions),
            lambda training: _device(training, gpu),
            shape=shape,
            places=places,
        ),
    )


def _device(training: Training, gpu: str | None) -> Device | None:
    """The GPU that is named, else the one that the pods' node selector asks for; None if that names none."""
    device = _gpu(training, gpu)
    return in_cluster(device, training) if device else None


def _gpu(training: Training, gpu: str | None) -> Device | None:
    if gpu is not None:
        return named_device(gpu)
    templates = [training.pod_template, training.pod_templates.gpu if training.pod_templates else {}]
    selectors = [(template or {}).get("spec", {}).get("nodeSelector") or {} for template in templates]
    known = (known_gpu(str(value)) for selector in selectors for value in selector.values())
    found = next(filter(None, known), None)
    return device_of(found) if found and training.gpus_per_node else None
