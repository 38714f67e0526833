"""``mtm plan``: which stages a run would run, and which are cached. Runs nothing."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import join, quote

from multitask_api.errors import UserError
from multitask_api.estimates.shape import ModelShape
from multitask_api.machine.gpus import gpu_count
from multitask_api.resource import MultiTaskModel
from multitask_api.stage_io.manifest import Resolved
from multitask_api.stage_io.results import BaseResult, FilterResult, PrepareResult
from multitask_api.stages import Graph, Node, NodeState, build
from multitask_api.stages.sampling import mixture
from multitask_api.stages.warm_start import starts
from multitask_operator.commands import BAD_INPUT, OK
from multitask_operator.commands.console import print_json, print_line, table
from multitask_operator.commands.costs import cost_text, costs_to_json, device_of, in_cluster, named_device, print_costs
from multitask_operator.commands.forecast import forecast_lines
from multitask_operator.local import release
from multitask_operator.local.capacity import capacity
from multitask_operator.local.gpus import local_gpu
from multitask_operator.local.model_file import data_root, device, ignored_fields, load, processes_allowed, resolve
from multitask_operator.local.speed import expected_speed
from multitask_operator.local.workdir import Workdir
from multitask_operator.planner.estimate import Estimate, estimate
from multitask_operator.planner.joint import BaselineWork
from multitask_operator.planner.misfit import change_that_fits, misfits
from multitask_operator.planner.stage_costs import Speed
from multitask_operator.planner.stage_memory import Device
from multitask_operator.planner.steps import epoch_hints
from multitask_operator.report.interference import affinity_of
from multitask_operator.report.origin import base_parameters
from multitask_operator.report.report_warnings import frozen_base_notes
from multitask_operator.report.served_form import served_as
from multitask_operator.report.tuning_text import tuning_lines

#: Name of the folder that holds work folders.
WORKDIRS = ".mtm"
_CLUSTER_GPUS = frozenset({"spec.training.nodes", "spec.training.gpusPerNode", "spec.training.sharding"})
"""What a plan for a GPU of a cluster does not ignore."""


@dataclass(frozen=True)
class PlanSummary:
    """What ``mtm plan`` prints. ``states``: stage → its state in words. ``probabilities``: group → task → p_i."""

    model: MultiTaskModel
    graph: Graph
    states: Mapping[str, str]
    probabilities: Mapping[str, Mapping[str, float]]
    ignored: list[str]
    notes: list[str]
    cost: Estimate
    baselines: BaselineWork
    change: str | None = None
    """With which every stage fits its GPU; None if all do."""

    @property
    def status(self) -> int:
        """The exit status: `BAD_INPUT` if a stage does not fit its GPU."""
        return OK if self.change is None else BAD_INPUT


def plan(
    file: Path,
    workdir: Path | None,
    *,
    serve: bool,
    as_json: bool,
    refresh: bool = False,
    gpu: str | None = None,
    options: Sequence[str] = (),
) -> int:
    """Show the plan of ``file`` against its work folder; memory and time on this machine, or on ``gpu`` in a cluster.

    ``options``: those that the next command on this machine needs too.
    """
    model = load(file)
    folder = Workdir(workdir or default_workdir(file, model))
    resolved = resolve(model, data_root(file), folder, rows=True)
    recorded = folder.versions_of(model.metadata.name)
    versions = release.versions_of_run(model, resolved, folder, refresh=refresh)
    releases = [*release.adoption_notes(recorded, versions), *release.release_notes(versions)]
    manifests = folder.manifests()

    def graph_of(each: MultiTaskModel) -> Graph:
        return build(each.metadata.name, each.spec, resolved, manifests, versions, serve=serve)

    graph = graph_of(model)
    shape = find_shape(graph, resolved)
    if gpu is None:
        on, host, places = _local_device(model), platform.node(), _joint_places(model)
        cost = estimate(
            model,
            graph,
            host=host,
            shape=shape,
            device=on,
            otherwise=lambda: _expected_speed(model, resolved, graph, shape),
            samples=resolved.rows,
            places=places,
        )
    else:
        on = in_cluster(named_device(gpu), model.spec.training)
        places = model.spec.training.max_parallel_jobs if on.gpus == 1 else 0
        cost = estimate(model, graph, measured=False, shape=shape, device=on, samples=resolved.rows, places=places)
    summary = PlanSummary(
        model=model,
        graph=graph,
        states={node.name: describe_state(node, graph) for node in graph.nodes},
        probabilities=sampling_probabilities(model, graph),
        ignored=[name for name in ignored_fields(model) if gpu is None or name not in _CLUSTER_GPUS],
        notes=[
            *model.spec.hints(),
            *epoch_hints(model, graph, resolved.rows),
            *starts(graph.nodes),
            *frozen_base_notes(model, graph),
            *releases,
        ],
        cost=cost,
        baselines=BaselineWork.of(model.spec, graph, places),
        change=change_that_fits(
            model,
            cost,
            graph_of,
            lambda training: on if gpu is None else in_cluster(named_device(gpu), training),
            shape=shape,
            places=places,
        ),
    )
    if as_json:
        print_json(to_json(summary))
    else:
        here, elsewhere = join(["mtm", "run", str(file), *options]), join(["kubectl", "apply", "-f", str(file)])
        _print(summary, here if gpu is None else f"{elsewhere} (in a cluster with that GPU)", folder)
    return summary.status


def default_workdir(file: Path, model: MultiTaskModel) -> Path:
    """The default of --workdir: ``.mtm/<name>`` beside the file, wherever the command is called from. Of a link to a
    file it is beside the file itself, where its data is.

    Raises UserError if only the current folder, or that of the link, has one, as releases before this rule made it: to
    begin anew beside the file would train again what is there.
    """
    folder = Path(os.path.relpath(data_root(file) / WORKDIRS / model.metadata.name))
    former = {"in the current folder": Path(), "beside the link": file.parent}
    for where, parent in former.items():
        other = Path(os.path.relpath(parent / WORKDIRS / model.metadata.name))
        if other.is_dir() and not folder.is_dir():
            raise UserError(
                f"the work folder stands beside the file now, but {other} is {where}; add"
                f" --workdir {quote(str(other))} to go on with it, or --workdir {quote(str(folder))} to begin anew"
            )
    return folder


def describe_state(node: Node, graph: Graph) -> str:
    """A node's state in words."""
    if node.state is NodeState.DONE:
        return "cached"
    if node.state is NodeState.SKIPPED:
        return f"skipped: {node.reason}"
    if node.state is NodeState.READY:
        return "will run"
    missing = [name for name in node.waits_for if graph[name].state not in (NodeState.DONE, NodeState.SKIPPED)]
    labels = dict.fromkeys(name if len(missing) <= 2 else graph[name].kind for name in missing)
    return f"depends on {', '.join(labels)}"


def sampling_probabilities(model: MultiTaskModel, graph: Graph) -> dict[str, dict[str, float]]:
    """Group → task → p_i: from the filter if it ran, else from the prepared rows; without them the group is absent."""
    manifest = graph["filter"].manifest
    if manifest is not None:
        return {plan.name: dict(plan.probabilities) for plan in FilterResult.model_validate(manifest.result).groups}
    settings = model.spec.stages.mixture
    probabilities: dict[str, dict[str, float]] = {}
    for group, tasks in graph.groups.items():
        manifests = {task: graph[f"prepare/{task}"].manifest for task in tasks}
        rows = {task: PrepareResult.model_validate(item.result).rows.train for task, item in manifests.items() if item}
        if len(rows) == len(tasks):
            probabilities[group] = mixture(
                rows,
                temperature=settings.temperature,
                size_limit=settings.size_limit,
                weights=model.spec.weights,
            )
    return probabilities


def to_json(summary: PlanSummary) -> dict[str, object]:
    """As ``mtm plan --output json`` prints it."""
    affinity = affinity_of(summary.graph)
    return {
        "model": summary.model.metadata.name,
        "stages": [
            {"name": node.name, "state": node.state.value, "digest": node.digest, "shown": summary.states[node.name]}
            for node in summary.graph.nodes
        ],
        "probabilities": summary.probabilities,
        **({"affinity": affinity.to_json()} if affinity else {}),
        "servedAs": served_as(summary.model.spec, summary.graph),
        "ignored": summary.ignored,
        "notes": summary.notes,
        "change": summary.change,
        "cost": costs_to_json(summary.cost),
        "baselines": {
            "train": summary.baselines.train,
            "cached": summary.baselines.cached,
            "declared": summary.baselines.declared,
            "processes": list(summary.baselines.processes),
        },
    }


def print_stages(summary: PlanSummary) -> None:
    """Print every stage with its state, then the sampling probabilities and the notes."""
    rows = [(node.name, summary.states[node.name], node.digest or "") for node in summary.graph.nodes]
    table("", ("stage", "state", "digest"), rows)
    for group, tasks in summary.graph.groups.items():
        if shares := summary.probabilities.get(group):
            text = ", ".join(f"{task} {shares[task]:.3f}" for task in tasks if task in shares)
            print_line(f"sampling probabilities, {group}: {text}")
    unknown = [group for group in summary.graph.groups if not summary.probabilities.get(group)]
    if unknown:
        print_line(f"sampling probabilities, {', '.join(unknown)}: unknown until the data is prepared")
    for line in forecast_lines(summary.model, summary.graph, affinity_of(summary.graph)):
        print_line(line)
    for line in tuning_lines(summary.model, summary.graph):
        print_line(line)
    print_costs(summary.cost)
    if str(summary.baselines):
        print_line(f"baselines: {summary.baselines}")
    for line in misfits(summary.model, summary.cost):
        print_line(f"warning: {line}")
    print_line(f"served as: {served_as(summary.model.spec, summary.graph)}")
    if summary.ignored:
        print_line(f"ignored, only a cluster uses them: {', '.join(summary.ignored)}")
    for note in summary.notes:
        print_line(f"note: {note}")


def count_done(graph: Graph) -> str:
    """``12 of 20``: stages that are done or skipped, and all stages."""
    done = sum(node.state in (NodeState.DONE, NodeState.SKIPPED) for node in graph.nodes)
    return f"{done} of {len(graph.nodes)}"


def _print(summary: PlanSummary, next_step: str, workdir: Workdir) -> None:
    print_stages(summary)
    print_line(f"{count_done(summary.graph)} stages done; work folder {workdir.path}")
    if summary.graph.finished:
        print_line("nothing to run")
        return
    print_line(f"training left: {cost_text(summary.cost)}")
    print_line(f"next: {summary.change or next_step}")


def find_shape(graph: Graph, resolved: Resolved) -> ModelShape | None:
    """The shape of the base model: as the stage ``base`` reports it, else as it was resolved."""
    manifest = graph["base"].manifest
    found = BaseResult.model_validate(manifest.result).shape if manifest else None
    return found or resolved.base_shape


def _joint_places(model: MultiTaskModel) -> int:
    """How many trainings with a GPU each this machine has at work at once."""
    return 0 if device(model, "auto") == "cpu" else min(gpu_count(), capacity(processes_allowed(model)).processes)


def _local_device(model: MultiTaskModel) -> Device | None:
    """What stages train on here; None for a GPU that its driver does not describe."""
    if device(model, "auto") == "cpu" or not gpu_count():
        return Device("this machine", capacity().memory, is_gpu=False)
    gpu = local_gpu()
    return device_of(gpu) if gpu else None


def _expected_speed(model: MultiTaskModel, resolved: Resolved, graph: Graph, shape: ModelShape | None) -> Speed | None:
    """The speed of this machine, for a plan whose stages have not measured it yet."""
    known = base_parameters(graph) or resolved.base_parameters
    return expected_speed(model, device(model, "auto"), shape.linear_weights if shape else known)
