"""The table that a state of the rollout stands for. Nothing but this writes weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from multitask_api.routes import Backend, RolloutState, RoutedTask, TaskRollout, TaskRouteSpec
from multitask_api.serving_io.revision import RevisionTask
from multitask_operator.rollout.candidate import has_traffic, same_contract
from multitask_operator.rollout.inputs import LiveRevision, RolloutInput
from multitask_operator.rollout.plan import Step, window_name
from multitask_operator.rollout.share import share_of

OVER = frozenset({"Successful", "Failed", "Aborted"})
ROLLING = frozenset({"Verifying", "Progressing"})
"""Phases of a rollout that has one of the places of the installation. One that waits for a person has none: it would
keep others from theirs for as long as nobody decides."""
OUT = frozenset({"Failed", "Excluded"})
"""Phases of a task that keeps its old revision."""


def table(
    inp: RolloutInput, state: RolloutState | None, step: Step | None, moved: Mapping[str, str]
) -> TaskRouteSpec | None:
    """The next spec of the TaskRoute; None as long as there is nothing to route.

    ``step``: the step under way, None before the first one; ``moved``: task → the revision that it gets at once.
    """
    if state is None and inp.route is None:
        return None
    revision = inp.revision(state.revision) if state is not None else None
    names = [*inp.routed, *(task.name for task in (revision.record.tasks if revision is not None else ()))]
    tasks = tuple(entry for name in dict.fromkeys(names) for entry in _entries(inp, state, revision, step, name, moved))
    return TaskRouteSpec(namespace=inp.namespace, model=inp.model, tasks=tasks)


def _entries(
    inp: RolloutInput,
    state: RolloutState | None,
    revision: LiveRevision | None,
    step: Step | None,
    name: str,
    moved: Mapping[str, str],
) -> Iterator[RoutedTask]:
    """The task's entry, or nothing if no revision may answer it."""
    entry = inp.routed.get(name)
    target = inp.revision(moved.get(name))
    if target is not None:
        yield from _with(entry, (_backend(target, 100),), target.task(name))
        return
    if state is None or (revision is None and state.phase == "Successful"):
        yield from () if entry is None else (entry,)
        return
    home = inp.home(name, state.revision)
    task = revision.task(name) if revision is not None else None
    row = next((item for item in state.tasks if item.name == name), None)
    weight = _weight(inp, state, revision, step, name, home, task, row)
    if weight is None or revision is None or task is None:
        if home is not None and not (state.phase == "Successful" and task is None):
            yield from _with(entry, (_refreshed(inp, home, 100),), _told_by(inp, home, name))
        return
    own = _backend(revision, weight)
    if home is None or state.phase == "Successful":
        yield from _with(entry, (own,), task, _window(state, step, entry))
        return
    told = task if weight >= 50 else _told_by(inp, home, name)
    yield from _with(entry, (_refreshed(inp, home, 100 - weight), own), told, _window(state, step, entry))


def _weight(
    inp: RolloutInput,
    state: RolloutState,
    revision: LiveRevision | None,
    step: Step | None,
    name: str,
    home: Backend | None,
    task: RevisionTask | None,
    row: TaskRollout | None,
) -> int | None:
    """The new revision's percentage of the task; None: it does not stand in the task's entry."""
    if revision is None or task is None:
        return None
    settled = inp.is_settled(revision.name, name)
    if state.phase in ("Failed", "Aborted"):  # what it had before stays, what it was given goes
        return 100 if settled and (row is None or row.phase == "Successful") else None
    is_out = row is not None and row.phase in OUT
    if settled and not (is_out and state.phase not in OVER):  # once it is over, somebody may have moved it since
        return 100
    if is_out:
        return None
    if state.phase == "Successful":
        return 100 if row is not None and row.phase == "Successful" else None
    if step is None:
        return 0
    if home is None or not same_contract(inp, home, task):
        stays = step.is_held and not has_traffic(inp, revision.name, name)
        return 0 if stays else whole_weight(inp, state, revision, name)
    return min(step.weight, share_of(inp, revision, state))


def whole_weight(inp: RolloutInput, state: RolloutState, revision: LiveRevision, name: str) -> int:
    """The weight of a task that no other revision answers as the new one does: 0 or 100.

    It cannot be shared, so it moves when the servers can take all of it; one that nobody else answers moves with the
    first server. It goes back only from a revision that has no ready server to one that has.
    """
    home = inp.home(name, revision.name)
    if revision.ready and (home is None or share_of(inp, revision, state) >= 100):
        return 100
    old = inp.revision(home.revision) if home is not None else None
    stays = revision.ready > 0 or old is None or old.ready == 0
    return 100 if stays and has_traffic(inp, revision.name, name) else 0


def _window(state: RolloutState, step: Step | None, entry: RoutedTask | None) -> str | None:
    if step is None or state.phase in OVER:
        return entry.window if entry is not None else None
    return window_name(state, step)


def _told_by(inp: RolloutInput, backend: Backend, name: str) -> RevisionTask | None:
    owner = inp.revision(backend.revision)
    return owner.task(name) if owner is not None else None


def _backend(revision: LiveRevision, weight: int) -> Backend:
    return Backend(service=revision.service, port=revision.port, weight=weight, revision=revision.name)


def _refreshed(inp: RolloutInput, backend: Backend, weight: int) -> Backend:
    owner = inp.revision(backend.revision)
    return _backend(owner, weight) if owner is not None else backend.model_copy(update={"weight": weight})


def _with(
    entry: RoutedTask | None, backends: tuple[Backend, ...], task: RevisionTask | None, window: str | None = None
) -> Iterator[RoutedTask]:
    """The entry with other backends; what callers learn of the task comes from the revision that mostly answers."""
    window = window if window is not None else entry.window if entry is not None else None
    if task is not None:
        yield RoutedTask(
            name=task.name,
            type=task.type,
            fields=task.fields,
            labels=task.labels,
            served_by=task.served_by,
            window=window,
            backends=backends,
        )
    elif entry is not None:  # its revision's record is gone: what the table has is all that is known
        yield entry.model_copy(update={"backends": backends, "window": window})
