"""What starts next, over all runs of a study: they share one machine and one storage. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from multitask_api.stages import Graph, Node, NodeState
from multitask_operator.planner import FreeCapacity, Plan, PlannerInput, Running, cost, plan_graph
from multitask_operator.study.graphs import Target, keys_of


def plan_targets(targets: Sequence[Target], planner_input: PlannerInput, now: float) -> tuple[Plan, ...]:
    """A plan for each of ``targets``, in their order: the first has what it needs first.

    A stage that several want is started once, and what one of them wants is never stopped by another. ``running`` of
    ``planner_input`` are the stages of all; its ``resolved`` and ``manifests`` are those of the targets.
    """
    running = list(planner_input.running)
    free = _free(targets, planner_input)
    plans = []
    for target in targets:
        wanted = keys_of(target.graph)
        own = tuple(run for run in running if (run.stage, run.digest) in wanted)
        plan = plan_graph(target.graph, target.model, replace(planner_input, running=own), now, free)
        running += [Running(*each.key, now, gpu=each.gpu) for start in plan.starts for each in start.each]
        plans.append(plan)
    return tuple(plans)


def _free(targets: Sequence[Target], planner_input: PlannerInput) -> FreeCapacity | None:
    """What the running stages leave of the machine."""
    if planner_input.capacity is None:
        return None
    free = FreeCapacity.all_of(planner_input.capacity)
    for run in planner_input.running:
        target = next((item for item in targets if (run.stage, run.digest) in keys_of(item.graph)), targets[0])
        known = run.stage in target.graph
        node = target.graph[run.stage] if known else Node(run.stage, "mixture", NodeState.WAITING)
        if not run.shares_process:
            free.use(node, cost(node, target.graph, target.model.spec, planner_input.capacity), run.gpu)
    return free


def merged(plans: Sequence[Plan], *, is_running: bool) -> Plan:
    """All plans as one, for what shows progress: every stage once. Its graph is not one that anything is planned by.

    ``is_running``: whether any stage is at work. A plan by itself is finished too when others leave it no room.
    """
    nodes = {(node.name, node.digest): node for plan in plans for node in plan.graph.nodes}
    waits = [plan.requeue_after for plan in plans if plan.requeue_after is not None]
    failed = {(item.failure.stage, item.digest): item for plan in plans for item in plan.failed}
    return Plan(
        graph=Graph(tuple(nodes.values()), {}),
        actions=tuple(action for plan in plans for action in plan.actions),
        requeue_after=min(waits, default=None),
        finished=not is_running and all(plan.finished for plan in plans),
        failed=tuple(failed.values()),
    )
