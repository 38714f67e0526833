"""``mtm plan NAME``: what has run, what is at work, what will run. Writes nothing."""

from __future__ import annotations

import time

from multitask_operator.commands import plan as local
from multitask_operator.commands.cluster.jobs import first_line
from multitask_operator.commands.cluster.model_state_reader import read_model_state
from multitask_operator.commands.cluster.model_view import ModelView, model_view
from multitask_operator.commands.cluster.session import ClusterOptions, run_with_client
from multitask_operator.commands.console import print_json, print_line
from multitask_operator.planner.estimate import estimate
from multitask_operator.report.build import frozen_base_notes


def plan(name: str, where: ClusterOptions, *, as_json: bool) -> int:
    """Show the plan of the model called ``name``."""
    raw = run_with_client(where, lambda client, namespace: read_model_state(client, namespace, name, time.time()))
    shown = model_view(raw, time.time())
    planned = planned_of(shown)
    if as_json:
        print_json(local.to_json(planned))
        return 0
    local.print_stages(planned)
    print_line(f"{local.done_of(planned.graph)} stages are there; namespace {raw.namespace}")
    if planned.graph.finished:
        print_line("nothing to run")
    else:
        print_line(
            f"training still to do: {local.cost_text(planned.cost)}; next: mtm explain {name} -n {raw.namespace}"
        )
    return 0


def planned_of(shown: ModelView) -> local.Planned:
    """What the command shows."""
    model, graph = shown.model, shown.plan.graph
    states = {node.name: local.state(node, graph) for node in graph.nodes}
    wanted = {(node.name, node.digest) for node in graph.nodes}
    states |= {run.stage: "running" for run in shown.observed.running if (run.stage, run.digest) in wanted}
    states |= {each.failure.stage: f"failed: {first_line(each.failure.message)}" for each in shown.plan.failed}
    notes = [*model.spec.hints(), *frozen_base_notes(model, graph)]
    if not shown.current:
        notes.append(
            "data and storage have not been looked at for this generation yet: what is cached may turn out otherwise"
        )
    return local.Planned(
        model=model,
        graph=graph,
        states=states,
        probabilities=local.probabilities(model, graph),
        ignored=[],
        notes=notes,
        cost=estimate(model, graph),
    )
