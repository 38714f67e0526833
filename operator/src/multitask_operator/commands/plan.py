"""``mtm plan``: what a run would do, and what is there already. Runs nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from multitask_api.resource import MultiTaskModel
from multitask_api.stage_io.results import FilterResult, PrepareResult
from multitask_api.stages import Graph, Node, NodeState, build, groups
from multitask_api.stages.sampling import mixture
from multitask_operator.commands.console import print_json, print_line, table
from multitask_operator.formatting import duration
from multitask_operator.local.model_file import data_root, ignored_fields, load, resolve
from multitask_operator.local.workdir import Workdir
from multitask_operator.planner.estimate import Estimate, estimate
from multitask_operator.report.build import frozen_base_notes

UNKNOWN_COST = "unknown until this machine has a measured tokens/s"


@dataclass(frozen=True)
class Planned:
    """What ``mtm plan`` shows; ``states``: stage → its state in words."""

    model: MultiTaskModel
    graph: Graph
    states: Mapping[str, str]
    probabilities: Mapping[str, Mapping[str, float]]
    ignored: list[str]
    notes: list[str]
    cost: Estimate | None


def plan(file: Path, workdir: Path | None, *, serve: bool, as_json: bool) -> int:
    """Show the plan of ``file`` against its work folder."""
    model = load(file)
    place = Workdir(workdir or default_workdir(model))
    resolved = resolve(model, data_root(file), place)
    graph = build(model.metadata.name, model.spec, resolved, place.manifests(), serve=serve)
    planned = Planned(
        model=model,
        graph=graph,
        states={node.name: state(node, graph) for node in graph.nodes},
        probabilities=probabilities(model, graph),
        ignored=ignored_fields(model),
        notes=[*model.spec.hints(), *frozen_base_notes(model, graph)],
        cost=estimate(model, graph),
    )
    if as_json:
        print_json(to_json(planned))
    else:
        _print(planned, file, place)
    return 0


def default_workdir(model: MultiTaskModel) -> Path:
    """Where a model's artifacts lie unless --workdir says otherwise."""
    return Path(".mtm") / model.metadata.name


def state(node: Node, graph: Graph) -> str:
    """A node's state in words."""
    if node.state is NodeState.DONE:
        return "cached"
    if node.state is NodeState.SKIPPED:
        return f"skipped: {node.reason}"
    if node.state is NodeState.READY:
        return "will run"
    open_ = [name for name in node.waits_for if graph[name].state not in (NodeState.DONE, NodeState.SKIPPED)]
    kinds = dict.fromkeys(name if len(open_) <= 2 else graph[name].kind for name in open_)
    return f"depends on {', '.join(kinds)}"


def probabilities(model: MultiTaskModel, graph: Graph) -> dict[str, dict[str, float]]:
    """p_i a group: from the filter if it ran, else from the rows if they are prepared, else unknown (absent)."""
    manifest = graph["filter"].manifest
    if manifest is not None:
        return {plan.name: dict(plan.probabilities) for plan in FilterResult.model_validate(manifest.result).groups}
    settings = model.spec.stages.mixture
    found: dict[str, dict[str, float]] = {}
    for group, tasks in groups(model.spec).items():
        manifests = {task: graph[f"prepare/{task}"].manifest for task in tasks}
        rows = {task: PrepareResult.model_validate(item.result).rows.train for task, item in manifests.items() if item}
        if len(rows) == len(tasks):
            found[group] = mixture(rows, temperature=settings.temperature, size_limit=settings.size_limit)
    return found


def to_json(planned: Planned) -> dict[str, object]:
    """The plan as data."""
    cost = planned.cost
    return {
        "model": planned.model.metadata.name,
        "stages": [
            {"name": node.name, "state": node.state.value, "digest": node.digest, "shown": planned.states[node.name]}
            for node in planned.graph.nodes
        ],
        "probabilities": planned.probabilities,
        "ignored": planned.ignored,
        "notes": planned.notes,
        "cost": {"atMostSeconds": round(cost.seconds), "tokensPerSecond": round(cost.tokens_per_second)}
        if cost
        else None,
    }


def print_stages(planned: Planned) -> None:
    """Every stage with its state, the sampling probabilities, and what a reader should know besides."""
    rows = [(node.name, planned.states[node.name], node.digest or "") for node in planned.graph.nodes]
    table("", ("stage", "state", "digest"), rows)
    for group, tasks in groups(planned.model.spec).items():
        known = planned.probabilities.get(group)
        shown = (
            ", ".join(f"{task} {known[task]:.3f}" for task in tasks if task in known)
            if known
            else "unknown until the data is prepared"
        )
        print_line(f"sampling probabilities, {group}: {shown}")
    if planned.ignored:
        print_line(f"ignored here, only a cluster uses them: {', '.join(planned.ignored)}")
    for note in planned.notes:
        print_line(f"note: {note}")


def done_of(graph: Graph) -> str:
    """``12 of 20``: the stages that need not run, and all of them."""
    done = sum(node.state in (NodeState.DONE, NodeState.SKIPPED) for node in graph.nodes)
    return f"{done} of {len(graph.nodes)}"


def _print(planned: Planned, file: Path, place: Workdir) -> None:
    print_stages(planned)
    print_line(f"{done_of(planned.graph)} stages are there; work folder {place.path}")
    if planned.graph.finished:
        print_line("nothing to run")
        return
    print_line(f"training still to do: {cost_text(planned.cost)}; next: mtm run {quote(str(file))}")


def cost_text(cost: Estimate | None) -> str:
    """What is still to be trained, in words."""
    if cost is None:
        return UNKNOWN_COST
    return f"at most {duration(cost.seconds)} of one process at the measured {cost.tokens_per_second:,.0f} tokens/s"
