"""``mtm plan NAME``: what has run, what is at work, what will run. Writes nothing."""

from __future__ import annotations

import time

from multitask_api.resource.hints import hints
from multitask_operator.commands import plan as local
from multitask_operator.commands.cluster.asking import Where, ask
from multitask_operator.commands.cluster.jobs import first_line
from multitask_operator.commands.cluster.looking import look
from multitask_operator.commands.cluster.picture import Picture, picture
from multitask_operator.commands.showing import print_json, say
from multitask_operator.planner.estimate import estimate
from multitask_operator.report.build import frozen_base_notes


def plan(name: str, where: Where, *, as_json: bool) -> int:
    """Show the plan of the model called ``name``."""
    raw = ask(where, lambda client, namespace: look(client, namespace, name, time.time()))
    shown = picture(raw, time.time())
    planned = planned_of(shown)
    if as_json:
        print_json(local.to_json(planned))
        return 0
    local.print_stages(planned)
    say(f"{local.done_of(planned.graph)} stages are there; namespace {raw.namespace}")
    if planned.graph.finished:
        say("nothing to run")
    else:
        say(f"training still to do: {local.cost_text(planned.cost)}; next: mtm explain {name} -n {raw.namespace}")
    return 0


def planned_of(shown: Picture) -> local.Planned:
    """What the command shows."""
    model, graph = shown.model, shown.plan.graph
    states = {node.name: local.state(node, graph) for node in graph.nodes}
    wanted = {(node.name, node.digest) for node in graph.nodes}
    states |= {run.stage: "running" for run in shown.observed.running if (run.stage, run.digest) in wanted}
    states |= {each.failure.stage: f"failed: {first_line(each.failure.message)}" for each in shown.plan.failed}
    notes = [*hints(model.spec), *frozen_base_notes(model, graph)]
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
