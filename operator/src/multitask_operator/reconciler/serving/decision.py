"""What serving needs next, put together: revisions, servers, the table, and its part of the status. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from multitask_api.routes import TaskRoute
from multitask_api.serving_io.names import TRITON_PORT
from multitask_api.stages.digests import digest
from multitask_operator.objects.serving import workload
from multitask_operator.objects.serving.names import serving_name
from multitask_operator.objects.serving.pods import server_template, start_seconds
from multitask_operator.objects.serving.routes import task_route
from multitask_operator.reconciler import refusals
from multitask_operator.reconciler.actions import Action, Create, DryRunCreate, Event, PatchRoute, delete_all, earliest
from multitask_operator.reconciler.blockers import Blocker
from multitask_operator.reconciler.contribution import Contribution, StatusPart
from multitask_operator.reconciler.serving import verification
from multitask_operator.reconciler.serving.checks import no_room_since, start_blocked, starting_servers
from multitask_operator.reconciler.serving.children import RevisionObjects
from multitask_operator.reconciler.serving.newest import NewestRevision, newest_revision, server_settings
from multitask_operator.reconciler.serving.queueing import queued
from multitask_operator.reconciler.serving.route_copy import read_copy, restored, written_copy
from multitask_operator.reconciler.serving.routes import merge_patch, read_route, status_of, without_ended_gateways
from multitask_operator.reconciler.serving.servers import obsolete_revisions, replicas_of
from multitask_operator.reconciler.serving.status import ServingView, serving_status, warnings
from multitask_operator.reconciler.stalls import seconds_until_not_scheduled
from multitask_operator.reconciler.state.model_state import ModelState
from multitask_operator.reconciler.state.revision_state import RevisionState, revision_states
from multitask_operator.rollout import WAITING_FOR_OTHERS, LiveRevision, RolloutDecision, RolloutInput, advance
from multitask_operator.settings import Settings

NOTHING = Contribution((), (), StatusPart({}), None)


def reconcile(state: ModelState, settings: Settings) -> Contribution:
    """What to do about the servers of a model that is not being deleted.

    Raises UserError for pods that the spec cannot ask for.
    """
    checks = tuple(_template_check(state, settings))
    known = revisions = revision_states(state.cluster)
    written, copy = read_route(state.cluster.task_route), read_copy(state)
    route = restored(written, copy)
    newest = newest_revision(state, settings, revisions, route)
    if newest.configmap is not None and newest.name is not None:
        revisions = {newest.name: _to_be_made(newest, revisions), **revisions}
    if not revisions and route is None:
        return replace(NOTHING, creations=checks, status=StatusPart(warnings(state, settings)))
    decision = advance(_rollout_input(state, revisions, newest, route, queued(state.cluster, settings)))
    if decision.reason == WAITING_FOR_OTHERS:  # a revision that does not start is not recorded either
        newest, revisions = replace(newest, configmap=None), known
    rejected = next((refusals.write_rejected(each) for each in state.cluster.rejected_writes), None)
    blocker = rejected or newest.blocker or start_blocked(state, settings)
    gone = obsolete_revisions(state, revisions, decision.live)
    creations = (
        *checks,
        *([Create(newest.configmap)] if newest.configmap is not None else ()),
        *_servers(state, settings, [each for name, each in revisions.items() if name not in gone], decision, blocker),
        *_table(state, written, copy, decision),
        *_events(state, decision),
        *written_copy(state, copy, decision),
        *verification.missing_objects(state, settings, revisions, decision.golden),
    )
    deletes = (
        *(delete for name in gone for delete in delete_all(*revisions[name].objects)),
        *verification.obsolete_verifications(state, settings, revisions.keys() - gone, decision.golden),
    )
    view = ServingView(state, settings, revisions, route, decision, blocker)
    unscheduled = [seconds_until_not_scheduled(each.pods, state.now) for each in revisions.values()]
    waits = (decision.requeue_after, *verification.waits(state), *unscheduled)
    return Contribution(deletes, creations, serving_status(view), earliest(*waits))


def _events(state: ModelState, decision: RolloutDecision) -> tuple[Event, ...]:
    """Those of a decision that is written; until the table exists nothing of it can be. They come right after it: what
    else the decision asks for may fail, and the next decision begins where the table is."""
    if state.cluster.task_route is None:
        return ()
    return tuple(Event(event.type, event.reason, event.message) for event in decision.events)


def _template_check(state: ModelState, settings: Settings) -> Iterator[Action]:
    """An error in the servers' pods must not show up after hours of training."""
    if not settings.are_known or not settings.serving_image:
        return
    name = digest("check", 8)
    servers = server_settings(settings, settings.serving_image)
    template = server_template(state.owner, state.model.spec, name, 0, servers)
    if state.resolve_job is None:
        yield DryRunCreate(workload.deployment(state.owner, name, template, 0, start_seconds(0)))


def _to_be_made(newest: NewestRevision, revisions: Mapping[str, RevisionState]) -> RevisionState:
    """The revision as it will be once its record is created."""
    made = RevisionState.from_record(newest.configmap or {}, newest.name or "")
    known = revisions.get(made.name)
    return made if known is None else replace(known, record=made.record, template=made.template)


def _rollout_input(
    state: ModelState,
    revisions: Mapping[str, RevisionState],
    newest: NewestRevision,
    route: TaskRoute | None,
    queued: str,
) -> RolloutInput:
    cluster = state.cluster
    metadata = cluster.task_route["metadata"] if cluster.task_route is not None else {}
    rollout = status_of(route).rollout
    revision = rollout.revision if rollout is not None else newest.name
    return RolloutInput(
        namespace=cluster.namespace,
        model=cluster.name,
        serving=state.model.spec.serving,
        annotations=cluster.annotations,
        revisions=tuple(
            LiveRevision(
                revision.record,
                serving_name(cluster.name, revision.name),
                TRITON_PORT,
                revision.replicas,
                revision.ready_endpoints,
                revision.replicas > 0 or bool(revision.pods),
                no_room_since(revision),
                starting_servers(revision),
                revision.start_seconds,
                revision.restarted,
            )
            for revision in reversed(list(revisions.values()))
            if revision.record is not None
        ),
        newest=newest.name,
        route=route,
        generation=metadata.get("generation"),
        gateways=cluster.gateway_states,
        now=state.now,
        reports=verification.reports_of(state, revision),
        job_failures=verification.failures_of(state, revision),
        queued=queued,
    )


def _servers(
    state: ModelState,
    settings: Settings,
    revisions: Sequence[RevisionState],
    decision: RolloutDecision,
    blocker: Blocker | None,
) -> Iterator[Action]:
    objects = RevisionObjects.of(state.owner, settings)
    for revision in revisions:
        if revision.name not in decision.live:
            yield from objects.stopped(revision)
            continue
        replicas = replicas_of(state, revision, decision)
        if blocker is not None:  # no further pod: it would not start, or keep others from starting
            replicas = min(replicas, revision.replicas)
        if blocker is None or revision.deployment is not None:
            # Only the operator knows where the gateways are.
            yield from objects.live(revision, replicas) if settings.are_known else ()


def _table(
    state: ModelState, route: TaskRoute | None, copy: TaskRoute | None, decision: RolloutDecision
) -> Iterator[Action]:
    existing = state.cluster.task_route
    if existing is None:
        # A status cannot be created with it: what was decided about the copy is decided again once the table is there.
        made = copy.spec if copy is not None else decision.spec
        if made is not None:
            yield Create(task_route(state.owner, made))
        return
    status = {} if route is None or route.status is None else route.status.to_json()
    wanted = {
        "rollout": None if decision.rollout is None else decision.rollout.to_json(),
        "rejected": [each.to_json() for each in decision.rejected],
        "served": [each.to_json() for each in decision.served],
    }
    changed = {
        name: merge_patch(status.get(name), value)
        for name, value in wanted.items()
        if (status.get(name) or None) != (value or None)
    }
    acknowledged = without_ended_gateways(existing, state.cluster.gateway_pods)
    if acknowledged is not None:
        changed["gateways"] = acknowledged
    is_same = decision.spec is None or (route is not None and route.spec == decision.spec)
    if changed or not is_same:
        spec = None if is_same or decision.spec is None else decision.spec.to_json()
        yield PatchRoute(existing["metadata"]["name"], existing["metadata"]["resourceVersion"], changed or None, spec)
