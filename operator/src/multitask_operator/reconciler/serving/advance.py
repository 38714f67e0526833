"""The next table of routes: all traffic goes to the newest revision once its servers are ready. Pure."""

from __future__ import annotations

from multitask_api.routes import Backend, RoutedTask, TaskRouteSpec
from multitask_operator.rollout import LiveRevision, RolloutDecision, RolloutInput


def advance(given: RolloutInput) -> RolloutDecision:
    """All traffic at once, as soon as every server is ready."""
    pinned = given.serving.pinned_revision
    target = next((each for each in given.revisions if each.name == (pinned or given.newest)), None)
    spec = given.route.spec if given.route is not None else None
    routed = {backend.revision for task in (spec.tasks if spec is not None else ()) for backend in task.backends}
    if target is None:
        return RolloutDecision(spec, None, (), frozenset(routed), "ServersStarting", "There is no revision.", False)
    live = frozenset({target.name, *routed})
    if routed == {target.name}:
        text = f"Revision {target.name} serves."
        return RolloutDecision(_whole(given, target), None, (), live, "Serving", text, False)
    if target.replicas == 0 or target.ready < target.replicas:
        text = f"{target.ready}/{target.replicas} servers of revision {target.name} are ready."
        return RolloutDecision(spec, None, (), live, "ServersStarting", text, True)
    text = f"Revision {target.name} takes over."
    return RolloutDecision(_whole(given, target), None, (), live, "Progressing", text, True)


def _whole(given: RolloutInput, target: LiveRevision) -> TaskRouteSpec:
    backend = Backend(service=target.service, port=target.port, weight=100, revision=target.name)
    tasks = tuple(
        RoutedTask(
            name=task.name,
            type=task.type,
            fields=task.fields,
            labels=task.labels,
            served_by=task.served_by,
            window=f"{target.name}/0",
            backends=(backend,),
        )
        for task in target.record.tasks
    )
    return TaskRouteSpec(namespace=given.namespace, model=given.model, tasks=tasks)
